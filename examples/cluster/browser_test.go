//go:build unix

package main

import (
	"fmt"
	"strings"
	"testing"

	"github.com/54eee7d7/websocket/internal/browser"
)

// Conditions of the page.
const (
	online = `document.body?.dataset.state === "online" && node === %s`
	people = `document.getElementById("people").textContent === %s`
	told   = `[...document.querySelectorAll("#log .note")].some((e) => e.textContent.startsWith(%s))`
	marked = `(document.querySelector("#log .gap")?.textContent ?? "").startsWith(%s)` +
		` && document.querySelector("#log .gap").textContent.endsWith(%s)`
	mine   = `[...document.querySelectorAll("#log .mine .text")].some((e) => e.textContent === %s)`
	theirs = `[...document.querySelectorAll("#log .theirs")].some((e) =>
		e.querySelector(".name").textContent === %s && e.querySelector(".text").textContent === %s)`
	at = `[...document.querySelectorAll("#nodes h2")].some((e) =>
		e.textContent === "Node " + %s && [...e.nextElementSibling.children].some((e) => e.textContent === %s))`
)

// TestBrowser has a page at the node that is killed, and one at another.
func TestBrowser(t *testing.T) {
	b := browser.Launch(t)
	nodes := startCluster(t, 3)
	dying := nodes[0]
	tom := b.Open(t, dying.url+"?name=Tom#cats")
	tom.Wait(t, online, dying.id)
	kit := b.Open(t, nodes[1].url+"?name=Kit#cats")
	kit.Wait(t, online, nodes[1].id)
	for _, page := range []*browser.Tab{tom, kit} {
		page.Wait(t, people, "2 here, 3 nodes")
		page.Expect(t, at, dying.id, "Tom")
		page.Expect(t, at, nodes[1].id, "Kit")
	}
	tom.Wait(t, told, "Kit came, on node "+nodes[1].id)

	say := func(from, to *browser.Tab, name, text string) {
		t.Helper()
		from.Write(t, text)
		from.Enter(t)
		from.Wait(t, mine, text)
		if to != nil {
			to.Wait(t, theirs, name, text)
		}
	}
	say(tom, kit, "Tom", "hello")
	say(kit, tom, "Kit", `<b>bold</b><script>alert(1)</script>`)
	for _, page := range []*browser.Tab{tom, kit} {
		page.Expect(t, `document.querySelector("#log :is(b, script)") === null`)
	}

	t.Run("Long", func(t *testing.T) {
		first := strings.Repeat("a", 999)
		kit.Eval(t, `text.value = "a".repeat(999) + "🐱b"`) // which the end of a message would cut in two
		kit.Enter(t)
		tom.Wait(t, theirs, "Kit", first)
		kit.Wait(t, mine, first)
		kit.Expect(t, `unheard.length === 0 && text.value === "🐱b"`)
		kit.Enter(t)
		tom.Wait(t, theirs, "Kit", "🐱b")
	})

	t.Run("Room", func(t *testing.T) {
		tom.Eval(t, `room.value = "dogs"; room.dispatchEvent(new Event("change"))`)
		tom.Wait(t, told, "You are in dogs as Tom, on node "+dying.id)
		kit.Wait(t, told, "Tom left")
		say(kit, nil, "Kit", "Is nobody here?")
		tom.Expect(t, `!(`+theirs+`)`, "Kit", "Is nobody here?")
		tom.Eval(t, `history.back()`)
		tom.Wait(t, told, "You are in cats as Tom, on node "+dying.id)
		kit.Wait(t, at, dying.id, "Tom")
		say(kit, tom, "Kit", "There you are.")
	})

	t.Run("Kill", func(t *testing.T) {
		tom.Eval(t, `connect = ((connect) => () => { if (held) connect(); })(connect); var held = false`)
		dying.kill()
		tom.Wait(t, told, "Connection to node "+dying.id+" lost")
		kit.Wait(t, told, "Node "+dying.id+" is gone, and with it Tom")
		kit.Wait(t, people, "1 here, 2 nodes")
		for i := range 3 {
			say(kit, nil, "Kit", fmt.Sprint("missed ", i))
		}
		tom.Write(t, "I was away")
		tom.Enter(t)
		tom.Expect(t, `document.getElementById("text").value === "I was away"`)
		tom.Eval(t, `held = true; connect()`)
		tom.Wait(t, marked, "Back on node ", ", 3 messages were missed")
		tom.Expect(t, `node !== %s && node in nodes`, dying.id)
		tom.Wait(t, people, "2 here, 2 nodes")
		kit.Wait(t, people, "2 here, 2 nodes")
		kit.Wait(t, at, tom.Eval(t, `node`), "Tom")
		tom.Enter(t)
		kit.Wait(t, theirs, "Tom", "I was away")
		say(kit, tom, "Kit", "Welcome back")
		tom.Expect(t, `!(`+theirs+`)`, "Kit", "missed 0")
		tom.Expect(t, `document.querySelectorAll("#log .gap").length === 1`)
	})
	b.ExpectNoComplaint(t)
	tom.Expect(t, `(() => {
		const script = document.createElement("script");
		script.textContent = "window.injected = true";
		document.body.append(script);
		return window.injected === undefined;
	})()`)
}
