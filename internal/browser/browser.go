//go:build unix

// Package browser drives a Chromium without a window, for tests of pages.
package browser

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"syscall"
	"testing"
	"time"

	"github.com/54eee7d7/websocket"
)

const timeout = time.Minute // for all that a browser does in a test

// A Browser is a Chromium without a window. It is driven through its DevTools
// protocol, which is JSON over a WebSocket.
type Browser struct {
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

// Launch starts a browser, which has to be there. It skips the test unless
// WEBSOCKET_INTEROP is 1 in the environment.
func Launch(t *testing.T, flags ...string) *Browser {
	t.Helper()
	if os.Getenv("WEBSOCKET_INTEROP") != "1" {
		t.Skip("runs Chromium; once it is installed: WEBSOCKET_INTEROP=1 go test")
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
	return &Browser{conn: conn}
}

type Params map[string]any

// Call calls a method of the browser, or of the tab with the session, and
// decodes what it returns.
func (b *Browser) Call(t *testing.T, session, method string, p Params, result any) {
	t.Helper()
	b.calls++
	call := Params{"id": b.calls, "method": method}
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
func (b *Browser) read(t *testing.T) (int, answer) {
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

// A Tab shows a page.
type Tab struct {
	*Browser
	Target, session string
}

// Open opens the page in a window of its own, which is never in the background.
func (b *Browser) Open(t *testing.T, url string) *Tab {
	t.Helper()
	tab := &Tab{Browser: b}
	var created struct{ TargetID string }
	b.Call(t, "", "Target.createTarget", Params{"url": "about:blank", "newWindow": true}, &created)
	tab.Target = created.TargetID
	var attached struct{ SessionID string }
	b.Call(t, "", "Target.attachToTarget", Params{"targetId": tab.Target, "flatten": true}, &attached)
	tab.session = attached.SessionID
	for _, domain := range []string{"Runtime", "Log", "Network"} {
		tab.Do(t, domain+".enable", nil)
	}
	var navigated struct{ ErrorText string }
	b.Call(t, tab.session, "Page.navigate", Params{"url": url}, &navigated)
	if navigated.ErrorText != "" {
		t.Fatalf("%s: %s", url, navigated.ErrorText)
	}
	return tab
}

// Do calls a method whose result does not matter.
func (tab *Tab) Do(t *testing.T, method string, p Params) {
	t.Helper()
	tab.Call(t, tab.session, method, p, nil)
}

// Next returns the parameters of the next event of that name in the tab.
func (tab *Tab) Next(t *testing.T, method string, p any) {
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

// Eval returns the value of a JavaScript expression, for which it waits if it is
// a promise.
func (tab *Tab) Eval(t *testing.T, expression string) any {
	t.Helper()
	var r struct {
		Result           struct{ Value any }
		ExceptionDetails *struct{ Exception struct{ Description string } }
	}
	tab.Call(t, tab.session, "Runtime.evaluate",
		Params{"expression": expression, "awaitPromise": true, "returnByValue": true}, &r)
	if r.ExceptionDetails != nil {
		t.Fatalf("%s: %s", expression, r.ExceptionDetails.Exception.Description)
	}
	return r.Result.Value
}

// Wait waits until a condition, which depends on the elements of the page, is true.
func (tab *Tab) Wait(t *testing.T, condition string, args ...any) {
	t.Helper()
	condition = expression(condition, args)
	seen := tab.Eval(t, `new Promise((resolve) => {
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

// Expect checks that a condition is true.
func (tab *Tab) Expect(t *testing.T, condition string, args ...any) {
	t.Helper()
	if condition = expression(condition, args); tab.Eval(t, condition) != true {
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

// Write types text.
func (tab *Tab) Write(t *testing.T, text string) {
	t.Helper()
	tab.Do(t, "Input.insertText", Params{"text": text})
}

// Enter presses the key.
func (tab *Tab) Enter(t *testing.T) {
	t.Helper()
	for _, typ := range []string{"keyDown", "keyUp"} {
		tab.Do(t, "Input.dispatchKeyEvent", Params{
			"type": typ, "key": "Enter", "code": "Enter", "text": "\r", "windowsVirtualKeyCode": 13,
		})
	}
}

// ExpectNoComplaint checks that the browser has logged no exception of the page's
// script and nothing that its policy forbids. That a server is away is fine.
func (b *Browser) ExpectNoComplaint(t *testing.T) {
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
