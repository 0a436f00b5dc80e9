//go:build unix

package main

import (
	"context"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/54eee7d7/websocket"
	"github.com/54eee7d7/websocket/internal/browser"
)

// Conditions for Wait and Expect.
const (
	state  = `document.getElementById("state")?.textContent === %s`
	people = `document.getElementById("people")?.textContent === %s`
	note   = `[...document.querySelectorAll("#log .note")].some((e) => e.firstChild.data === %s + " · ")`
	mine   = `[...document.querySelectorAll("#log .mine .text")].some((e) => e.textContent === %s)`
	theirs = `[...document.querySelectorAll("#log .theirs")].some((e) =>
		e.querySelector(".name").textContent === %s && e.querySelector(".text").textContent === %s)`
	field = `document.getElementById("text").value === %s`

	compressed = `socket.extensions === "permessage-deflate; server_no_context_takeover; client_no_context_takeover"`
)

// long is large enough to be compressed, and the longest that the page sends.
var long = strings.Repeat("0123456789", 100)

func TestBrowser(t *testing.T) {
	b := browser.Launch(t)
	s := start(t)
	one := b.Open(t, s.url)
	one.Wait(t, state, "user_1")
	two := b.Open(t, s.url)
	two.Wait(t, state, "user_2")
	one.Wait(t, note, "user_2 joined")
	one.Wait(t, people, "2 online")
	two.Wait(t, people, "2 online")
	one.Expect(t, compressed)

	one.Write(t, "hello")
	one.Enter(t)
	one.Wait(t, mine, "hello")
	one.Expect(t, field, "")
	two.Wait(t, theirs, "user_1", "hello")

	t.Run("Text", func(t *testing.T) {
		for _, text := range []string{
			`<b>bold</b><img src=x onerror="alert(1)"><script>alert(2)</script>`,
			"user_1 left",
			"welcome user_9",
			"so long\nuser_1 left",
			"user_1: I am not me",
			"echo: echo",
			long,
			"\u202e Ünïcödé 🐱",
		} {
			two.Write(t, text)
			two.Enter(t)
			text = strings.TrimSpace(text)
			two.Wait(t, mine, text)
			one.Wait(t, theirs, "user_2", text)
		}
		for _, tab := range []*browser.Tab{one, two} {
			tab.Expect(t, `document.querySelector("#log :is(b, img, script)") === null`)
			tab.Expect(t, `!(`+note+`)`, "user_1 left")
		}
		one.Expect(t, state, "user_1")
	})

	t.Run("Leave", func(t *testing.T) {
		three := b.Open(t, s.url)
		three.Wait(t, state, "user_3")
		one.Wait(t, people, "3 online")
		b.Call(t, "", "Target.closeTarget", browser.Params{"targetId": three.Target}, nil)
		for _, tab := range []*browser.Tab{one, two} {
			tab.Wait(t, note, "user_3 left")
			tab.Wait(t, people, "2 online")
		}
	})

	t.Run("Scroll", func(t *testing.T) {
		const bottom = `log.scrollHeight - log.scrollTop - log.clientHeight < 1`
		for i := range 30 {
			text := fmt.Sprintf("line %d", i)
			one.Write(t, text)
			one.Enter(t)
			two.Wait(t, theirs, "user_1", text)
		}
		two.Expect(t, bottom)
		two.Expect(t, `document.documentElement.scrollHeight <= innerHeight`)
		two.Eval(t, `log.scrollTop = 0`)
		one.Write(t, "last line")
		one.Enter(t)
		two.Wait(t, theirs, "user_1", "last line")
		two.Expect(t, `log.scrollTop === 0 && !newer.hidden`)
		two.Eval(t, `newer.click()`)
		two.Expect(t, bottom)
		two.Wait(t, `newer.hidden`)
	})

	t.Run("Restart", func(t *testing.T) {
		s.interrupt(t)
		for _, tab := range []*browser.Tab{one, two} {
			tab.Wait(t, note, "Connection lost")
		}
		s.wait(t)
		one.Write(t, "are you there?")
		one.Enter(t)
		one.Expect(t, field, "are you there?")
		s = start(t, "-addr", s.addr)
		for _, tab := range []*browser.Tab{one, two} {
			tab.Wait(t, `[...document.querySelectorAll(".note")].some((e) => e.textContent.startsWith("Connected again as user_"))`)
			tab.Wait(t, people, "2 online")
		}
		s.expectClients(t, "2")
		one.Expect(t, field, "are you there?")
		one.Enter(t)
		two.Wait(t, theirs, one.Eval(t, "state.textContent"), "are you there?")

		// Now the server ends so suddenly that it does not read what has been sent.
		// The page gives that back, and would wait for long if nothing happened.
		if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		var status syscall.WaitStatus // once it has stopped
		if _, err := syscall.Wait4(s.cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
			t.Fatalf("it has not stopped: %v, %v", status, err)
		}
		one.Write(t, "hello?")
		one.Enter(t)
		one.Expect(t, field, "")
		one.Write(t, "and then")
		one.Eval(t, `failures = 10`)
		two.Eval(t, `failures = 10`)
		if err := s.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for _, tab := range []*browser.Tab{one, two} {
			tab.Wait(t, `document.getElementById("countdown").textContent.startsWith("next try in ")`)
			tab.Expect(t, `parseInt(countdown.textContent.slice(12)) >= 15`)
		}
		one.Expect(t, field, "hello?\nand then")
		s.cmd.Wait()
		s = start(t, "-addr", s.addr)
		one.Eval(t, `dispatchEvent(new Event("online"))`)
		one.Wait(t, state, "user_1")
		two.Eval(t, `retry.click()`)
		two.Wait(t, state, "user_2")
	})

	b.ExpectNoComplaint(t)
	one.Expect(t, `(() => {
		const script = document.createElement("script");
		script.textContent = "window.injected = true";
		document.body.append(script);
		return window.injected === undefined;
	})()`)
}

// A tap passes on what goes over the connections to a server, and counts them.
type tap struct {
	net.Listener
	count  atomic.Int32
	passed sync.WaitGroup
}

func newTap(t *testing.T, addr string) *tap {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	tap := &tap{Listener: l}
	t.Cleanup(tap.passed.Wait)
	t.Cleanup(func() { l.Close() })
	tap.passed.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			tap.count.Add(1)
			tap.passed.Go(func() {
				defer context.AfterFunc(t.Context(), func() { in.Close() })()
				tap.pass(in, addr)
			})
		}
	})
	return tap
}

func (tap *tap) pass(in net.Conn, addr string) {
	defer in.Close()
	out, err := net.Dial("tcp", addr)
	if err != nil {
		return
	}
	tap.passed.Go(func() {
		io.Copy(in, out)
		in.Close()
	})
	io.Copy(out, in)
	out.Close()
}

// TestBrowserHTTP2 has the page and the WebSocket on one connection (RFC 8441).
func TestBrowserHTTP2(t *testing.T) {
	cert, files := certificate(t)
	key := sha256.Sum256(cert.RawSubjectPublicKeyInfo)
	b := browser.Launch(t, "--ignore-certificate-errors-spki-list="+base64.StdEncoding.EncodeToString(key[:]))
	s := start(t, files...)
	tap := newTap(t, s.addr)
	url := "https://" + tap.Addr().String() + "/"

	one := b.Open(t, url)
	one.Wait(t, state, "user_1")
	var page struct{ Response struct{ Protocol string } }
	one.Next(t, "Network.responseReceived", &page)
	if page.Response.Protocol != "h2" {
		t.Errorf("the page came over %q, want h2", page.Response.Protocol)
	}
	// Over HTTP/1.1 the status would be 101.
	var chat struct{ Response struct{ Status int } }
	one.Next(t, "Network.webSocketHandshakeResponseReceived", &chat)
	if chat.Response.Status != 200 {
		t.Errorf("the WebSocket opened with status %d, want 200", chat.Response.Status)
	}

	// The browser makes more connections than it needs before it knows that the server
	// speaks HTTP/2, but then one does for all.
	before := tap.count.Load()
	two := b.Open(t, url)
	two.Wait(t, state, "user_2")
	one.Wait(t, people, "2 online")
	two.Expect(t, compressed)
	for _, text := range []string{"hello", long} {
		two.Write(t, text)
		two.Enter(t)
		two.Wait(t, mine, text)
		one.Wait(t, theirs, "user_2", text)
	}
	b.Call(t, "", "Target.closeTarget", browser.Params{"targetId": two.Target}, nil)
	one.Wait(t, note, "user_2 left")
	if n := tap.count.Load() - before; n != 0 {
		t.Errorf("the second tab made %d connections, want 0", n)
	}

	s.interrupt(t)
	one.Wait(t, note, "Connection lost")
	s.wait(t)
	b.ExpectNoComplaint(t)
}

// A page for TestBrowserDeflate. echo sends n messages, some more whenever one has come
// back, and resolves to what differs, or to the extensions.
const echoPage = `<!DOCTYPE html><link rel="icon" href="data:,"><script>
"use strict";
function message(i) {
	const size = [0, 1, 100, 127, 128, 300, 600, 4000, 9000, 40000][i % 10];
	if (i % 3 === 0) return crypto.getRandomValues(new Uint8Array(size % 30000));
	const text = JSON.stringify({id: i, user: "user_" + i % 7, text: "γάτα 🐱 " + "meow ".repeat(i % 50)});
	return text.repeat(size / text.length + 1).slice(0, size).toWellFormed();
}
function same(got, want) {
	if (typeof want === "string") return got === want;
	const bytes = new Uint8Array(got);
	return bytes.length === want.length && bytes.every((b, i) => b === want[i]);
}
function echo(n, ahead) {
	return new Promise((resolve) => {
		const socket = new WebSocket(location.href.replace("http", "ws") + "echo");
		const sent = [];
		const send = () => {
			if (sent.length < n) socket.send(sent[sent.length] = message(sent.length));
		};
		let received = 0;
		socket.binaryType = "arraybuffer";
		socket.onopen = () => { for (let i = 0; i < ahead; i++) send(); };
		socket.onmessage = ({data}) => {
			if (!same(data, sent[received])) resolve("message " + received + " is another");
			if (++received < n) send();
			else socket.close(1000, "c'était tout");
		};
		socket.onclose = ({code, reason}) => resolve(
			received < n || code !== 1000 || reason !== "c'était tout" ? "closed with " + code + " " + reason : socket.extensions);
	});
}
</script>`

// TestBrowserDeflate has a page send messages of various sizes to servers that remember
// what has been sent, and compare what comes back.
func TestBrowserDeflate(t *testing.T) {
	b := browser.Launch(t)
	for _, tt := range []struct {
		deflate    websocket.Deflate
		extensions string
	}{
		{websocket.Deflate{ContextTakeover: true}, "permessage-deflate"},
		{
			websocket.Deflate{ContextTakeover: true, WindowBits: 9},
			"permessage-deflate; server_max_window_bits=9; client_max_window_bits=9",
		},
		{
			websocket.Deflate{ContextTakeover: true, WindowBits: 8, Threshold: -1},
			"permessage-deflate; server_max_window_bits=8; client_max_window_bits=8",
		},
	} {
		s := &websocket.Server{Options: websocket.Options{Deflate: &tt.deflate}}
		ends := make(chan error, 1)
		s.OnClose = func(_ *websocket.Conn, err error) { ends <- err }
		answers := 0
		s.OnMessage = func(c *websocket.Conn, typ websocket.MessageType, p []byte) {
			if answers++; answers%5 == 0 {
				s.Send(typ, p, c) // which is compressed without what went before
			} else {
				c.WriteMessage(typ, p)
			}
		}
		mux := http.NewServeMux()
		mux.Handle("/echo", s)
		mux.HandleFunc("/", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, echoPage) })
		web := httptest.NewServer(mux)
		t.Cleanup(web.Close)

		tab := b.Open(t, web.URL+"/")
		tab.Wait(t, `typeof echo === "function"`)
		if got := tab.Eval(t, "echo(200, 10)"); got != tt.extensions {
			t.Errorf("the page says %q, want %q", got, tt.extensions)
		}
		select {
		case err := <-ends:
			if !errors.Is(err, io.EOF) {
				t.Error("the connection has ended with", err)
			}
		case <-time.After(timeout):
			t.Error("the connection has not ended")
		}
	}
	b.ExpectNoComplaint(t)
}
