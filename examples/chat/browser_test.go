//go:build unix

package main

import (
	"bufio"
	"context"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/54eee7d7/websocket"
)

// A browser is a Chromium without a window. It is driven through its DevTools
// protocol, which is JSON over a WebSocket.
type browser struct {
	conn   *websocket.Conn
	calls  int
	events []event // that nobody has asked for yet
}

// An event is what the browser reports on its own.
type event struct {
	Session string `json:"sessionId"`
	Method  string
	Params  json.RawMessage
}

// launch starts a browser, which has to be there. It skips the test unless
// WEBSOCKET_INTEROP is 1 in the environment.
func launch(t *testing.T, flags ...string) *browser {
	t.Helper()
	if os.Getenv("WEBSOCKET_INTEROP") != "1" {
		t.Skip("runs Chromium; once it is installed: WEBSOCKET_INTEROP=1 go test ./examples/chat")
	}
	var path string
	for _, name := range []string{"chromium", "chromium-browser", "google-chrome", "google-chrome-stable"} {
		if p, err := exec.LookPath(name); err == nil {
			path = p
			break
		}
	}
	if path == "" {
		t.Fatal("there is no Chromium")
	}
	dir := t.TempDir()
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	cmd := exec.CommandContext(ctx, path, append(flags,
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-breakpad", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--user-data-dir="+dir, "--remote-debugging-port=0")...)
	cmd.Env = append(os.Environ(), "HOME="+dir)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	lines := make(chan string)
	go func() {
		defer close(lines)
		for s := bufio.NewScanner(stderr); s.Scan(); {
			lines <- s.Text()
		}
	}()
	t.Cleanup(func() {
		cmd.Cancel()
		for range lines { // until the last process of the group has ended
		}
		cmd.Wait()
	})
	var url string
	for line := range lines {
		if _, err := fmt.Sscanf(line, "DevTools listening on %s", &url); err == nil {
			break
		}
	}
	if url == "" {
		t.Fatal("the browser does not start")
	}
	go func() {
		for range lines {
		}
	}()
	conn, err := websocket.Dial(ctx, url, &websocket.Options{MaxMessage: 64 << 20})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	return &browser{conn: conn}
}

type params map[string]any

// call calls a method of the browser, or of the tab with the session, and
// decodes what it returns.
func (b *browser) call(t *testing.T, session, method string, p params, result any) {
	t.Helper()
	b.calls++
	call := params{"id": b.calls, "method": method}
	if p != nil {
		call["params"] = p
	}
	if session != "" {
		call["sessionId"] = session
	}
	text, err := json.Marshal(call)
	if err != nil {
		t.Fatal(err)
	}
	if err := b.conn.WriteMessage(websocket.Text, text); err != nil {
		t.Fatal(err)
	}
	for {
		id, answer := b.read(t)
		if id != b.calls {
			continue
		}
		if answer.Error != nil {
			t.Fatalf("%s: %s", method, answer.Error.Message)
		}
		if result != nil {
			if err := json.Unmarshal(answer.Result, result); err != nil {
				t.Fatalf("%s returned %s: %v", method, answer.Result, err)
			}
		}
		return
	}
}

// An answer is what a call returns.
type answer struct {
	Result json.RawMessage
	Error  *struct{ Message string }
}

// read reads an answer and returns the number of its call, or keeps an event and
// returns 0.
func (b *browser) read(t *testing.T) (int, answer) {
	t.Helper()
	_, text, err := b.conn.ReadMessage()
	if err != nil {
		t.Fatalf("the browser does not answer: %v", err)
	}
	var message struct {
		ID int
		answer
		event
	}
	if err := json.Unmarshal(text, &message); err != nil {
		t.Fatalf("the browser sent %s: %v", text, err)
	}
	if message.ID == 0 {
		b.events = append(b.events, message.event)
	}
	return message.ID, message.answer
}

// A tab shows the page of the chat.
type tab struct {
	*browser
	target, session string
}

// open opens the page in a window of its own, which is never in the background.
func (b *browser) open(t *testing.T, url string) *tab {
	t.Helper()
	tab := &tab{browser: b}
	var created struct{ TargetID string }
	b.call(t, "", "Target.createTarget", params{"url": "about:blank", "newWindow": true}, &created)
	tab.target = created.TargetID
	var attached struct{ SessionID string }
	b.call(t, "", "Target.attachToTarget", params{"targetId": tab.target, "flatten": true}, &attached)
	tab.session = attached.SessionID
	for _, domain := range []string{"Runtime", "Log", "Network"} {
		tab.do(t, domain+".enable", nil)
	}
	var navigated struct{ ErrorText string }
	b.call(t, tab.session, "Page.navigate", params{"url": url}, &navigated)
	if navigated.ErrorText != "" {
		t.Fatalf("%s: %s", url, navigated.ErrorText)
	}
	return tab
}

// do calls a method whose result does not matter.
func (tab *tab) do(t *testing.T, method string, p params) {
	t.Helper()
	tab.call(t, tab.session, method, p, nil)
}

// next returns the parameters of the next event of that name in the tab.
func (tab *tab) next(t *testing.T, method string, p any) {
	t.Helper()
	for i := 0; ; i++ {
		for i == len(tab.events) {
			tab.read(t)
		}
		if e := tab.events[i]; e.Session == tab.session && e.Method == method {
			tab.events = append(tab.events[:i], tab.events[i+1:]...)
			if err := json.Unmarshal(e.Params, p); err != nil {
				t.Fatal(err)
			}
			return
		}
	}
}

// eval returns the value of a JavaScript expression, for which it waits if it is
// a promise.
func (tab *tab) eval(t *testing.T, expression string) any {
	t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails *struct{ Exception struct{ Description string } }
	}
	tab.call(t, tab.session, "Runtime.evaluate",
		params{"expression": expression, "awaitPromise": true, "returnByValue": true}, &r)
	if r.ExceptionDetails != nil {
		t.Fatalf("%s: %s", expression, r.ExceptionDetails.Exception.Description)
	}
	return r.Result.Value
}

// wait waits until a condition, which depends on the elements of the page, is true.
func (tab *tab) wait(t *testing.T, condition string, args ...any) {
	t.Helper()
	condition = expression(condition, args)
	seen := tab.eval(t, `new Promise((resolve) => {
		const check = () => { if (`+condition+`) { observer.disconnect(); resolve(true); } };
		const observer = new MutationObserver(check);
		observer.observe(document, {subtree: true, childList: true, attributes: true, characterData: true});
		setTimeout(() => resolve(document.body.innerText), 15000);
		check();
	})`)
	if seen != true {
		t.Fatalf("the page does not come to %s, it shows %q", condition, seen)
	}
}

// expect checks that a condition is true.
func (tab *tab) expect(t *testing.T, condition string, args ...any) {
	t.Helper()
	if condition = expression(condition, args); tab.eval(t, condition) != true {
		t.Errorf("%s is not true of the page", condition)
	}
}

// expression puts args into a format, as JavaScript literals.
func expression(format string, args []any) string {
	for i, arg := range args {
		literal, _ := json.Marshal(arg)
		args[i] = literal
	}
	return fmt.Sprintf(format, args...)
}

// Conditions for wait and expect.
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

// write types text.
func (tab *tab) write(t *testing.T, text string) {
	t.Helper()
	tab.do(t, "Input.insertText", params{"text": text})
}

// enter presses the key.
func (tab *tab) enter(t *testing.T) {
	t.Helper()
	for _, typ := range []string{"keyDown", "keyUp"} {
		tab.do(t, "Input.dispatchKeyEvent", params{
			"type": typ, "key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13,
		})
	}
}

// expectNoComplaint checks that the browser has logged no exception of the page's
// script and nothing that its policy forbids. That a server is away is fine.
func (b *browser) expectNoComplaint(t *testing.T) {
	t.Helper()
	for _, e := range b.events {
		switch e.Method {
		case "Runtime.exceptionThrown", "Runtime.consoleAPICalled":
			t.Errorf("the page complained: %s", e.Params)
		case "Log.entryAdded":
			var p struct{ Entry struct{ Source, Text string } }
			if err := json.Unmarshal(e.Params, &p); err != nil {
				t.Error(err)
			}
			if p.Entry.Source != "network" {
				t.Errorf("the browser complained (%s): %s", p.Entry.Source, p.Entry.Text)
			}
		}
	}
}

func TestBrowser(t *testing.T) {
	b := launch(t)
	s := start(t)
	one := b.open(t, s.url)
	one.wait(t, state, "user_1")
	two := b.open(t, s.url)
	two.wait(t, state, "user_2")
	one.wait(t, note, "user_2 joined")
	one.wait(t, people, "2 online")
	two.wait(t, people, "2 online")
	one.expect(t, compressed)

	one.write(t, "hello")
	one.enter(t)
	one.wait(t, mine, "hello")
	one.expect(t, field, "")
	two.wait(t, theirs, "user_1", "hello")

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
			two.write(t, text)
			two.enter(t)
			text = strings.TrimSpace(text)
			two.wait(t, mine, text)
			one.wait(t, theirs, "user_2", text)
		}
		for _, tab := range []*tab{one, two} {
			tab.expect(t, `document.querySelector("#log :is(b, img, script)") === null`)
			tab.expect(t, `!(`+note+`)`, "user_1 left")
		}
		one.expect(t, state, "user_1")
	})

	t.Run("Leave", func(t *testing.T) {
		three := b.open(t, s.url)
		three.wait(t, state, "user_3")
		one.wait(t, people, "3 online")
		b.call(t, "", "Target.closeTarget", params{"targetId": three.target}, nil)
		for _, tab := range []*tab{one, two} {
			tab.wait(t, note, "user_3 left")
			tab.wait(t, people, "2 online")
		}
	})

	t.Run("Scroll", func(t *testing.T) {
		const bottom = `log.scrollHeight - log.scrollTop - log.clientHeight < 1`
		for i := range 30 {
			text := fmt.Sprintf("line %d", i)
			one.write(t, text)
			one.enter(t)
			two.wait(t, theirs, "user_1", text)
		}
		two.expect(t, bottom)
		two.expect(t, `document.documentElement.scrollHeight <= innerHeight`)
		two.eval(t, `log.scrollTop = 0`)
		one.write(t, "last line")
		one.enter(t)
		two.wait(t, theirs, "user_1", "last line")
		two.expect(t, `log.scrollTop === 0 && !newer.hidden`)
		two.eval(t, `newer.click()`)
		two.expect(t, bottom)
		two.wait(t, `newer.hidden`)
	})

	t.Run("Restart", func(t *testing.T) {
		s.interrupt(t)
		for _, tab := range []*tab{one, two} {
			tab.wait(t, note, "Connection lost")
		}
		s.wait(t)
		one.write(t, "are you there?")
		one.enter(t)
		one.expect(t, field, "are you there?")
		s = start(t, "-addr", s.addr)
		for _, tab := range []*tab{one, two} {
			tab.wait(t, `[...document.querySelectorAll(".note")].some((e) => e.textContent.startsWith("Connected again as user_"))`)
			tab.wait(t, people, "2 online")
		}
		s.expectClients(t, "2")
		one.expect(t, field, "are you there?")
		one.enter(t)
		two.wait(t, theirs, one.eval(t, "state.textContent"), "are you there?")

		// Now the server ends so suddenly that it does not read what has been sent.
		// The page gives that back, and would wait for long if nothing happened.
		if err := s.cmd.Process.Signal(syscall.SIGSTOP); err != nil {
			t.Fatal(err)
		}
		var status syscall.WaitStatus // once it has stopped
		if _, err := syscall.Wait4(s.cmd.Process.Pid, &status, syscall.WUNTRACED, nil); err != nil || !status.Stopped() {
			t.Fatalf("it has not stopped: %v, %v", status, err)
		}
		one.write(t, "hello?")
		one.enter(t)
		one.expect(t, field, "")
		one.write(t, "and then")
		one.eval(t, `failures = 10`)
		two.eval(t, `failures = 10`)
		if err := s.cmd.Process.Kill(); err != nil {
			t.Fatal(err)
		}
		for _, tab := range []*tab{one, two} {
			tab.wait(t, `document.getElementById("countdown").textContent.startsWith("next try in ")`)
			tab.expect(t, `parseInt(countdown.textContent.slice(12)) >= 15`)
		}
		one.expect(t, field, "hello?\nand then")
		s.cmd.Wait()
		s = start(t, "-addr", s.addr)
		one.eval(t, `dispatchEvent(new Event("online"))`)
		one.wait(t, state, "user_1")
		two.eval(t, `retry.click()`)
		two.wait(t, state, "user_2")
	})

	b.expectNoComplaint(t)
	one.expect(t, `(() => {
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
	b := launch(t, "--ignore-certificate-errors-spki-list="+base64.StdEncoding.EncodeToString(key[:]))
	s := start(t, files...)
	tap := newTap(t, s.addr)
	url := "https://" + tap.Addr().String() + "/"

	one := b.open(t, url)
	one.wait(t, state, "user_1")
	var page struct{ Response struct{ Protocol string } }
	one.next(t, "Network.responseReceived", &page)
	if page.Response.Protocol != "h2" {
		t.Errorf("the page came over %q, want h2", page.Response.Protocol)
	}
	// Over HTTP/1.1 the status would be 101.
	var chat struct{ Response struct{ Status int } }
	one.next(t, "Network.webSocketHandshakeResponseReceived", &chat)
	if chat.Response.Status != 200 {
		t.Errorf("the WebSocket opened with status %d, want 200", chat.Response.Status)
	}

	// The browser makes more connections than it needs before it knows that the server
	// speaks HTTP/2, but then one does for all.
	before := tap.count.Load()
	two := b.open(t, url)
	two.wait(t, state, "user_2")
	one.wait(t, people, "2 online")
	two.expect(t, compressed)
	for _, text := range []string{"hello", long} {
		two.write(t, text)
		two.enter(t)
		two.wait(t, mine, text)
		one.wait(t, theirs, "user_2", text)
	}
	b.call(t, "", "Target.closeTarget", params{"targetId": two.target}, nil)
	one.wait(t, note, "user_2 left")
	if n := tap.count.Load() - before; n != 0 {
		t.Errorf("the second tab made %d connections, want 0", n)
	}

	s.interrupt(t)
	one.wait(t, note, "Connection lost")
	s.wait(t)
	b.expectNoComplaint(t)
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
	b := launch(t)
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

		tab := b.open(t, web.URL+"/")
		tab.wait(t, `typeof echo === "function"`)
		if got := tab.eval(t, "echo(200, 10)"); got != tt.extensions {
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
	b.expectNoComplaint(t)
}
