// Package moving has the programs of .github/MIGRATING.md: as they are with five other
// libraries, in before, and with this one, in after. Here each server talks to each client.
package moving

import (
	"bufio"
	"context"
	"encoding/base64"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/54eee7d7/websocket"
	"github.com/54eee7d7/websocket/internal/moving/after"
	"github.com/54eee7d7/websocket/internal/moving/before"
)

// eachPair calls f with each server and each client.
func eachPair[S, C any](t *testing.T, beforeS, afterS S, beforeC, afterC C, f func(*testing.T, S, C)) {
	servers := map[string]S{"before": beforeS, "after": afterS}
	clients := map[string]C{"before": beforeC, "after": afterC}
	for s, server := range servers {
		for c, client := range clients {
			t.Run("server "+s+", client "+c, func(t *testing.T) { f(t, server, client) })
		}
	}
}

// serve returns the URL of a server, which ends with the test.
func serve(t *testing.T, h http.Handler) string {
	t.Helper()
	server := httptest.NewServer(h)
	t.Cleanup(server.Close)
	return "ws" + strings.TrimPrefix(server.URL, "http") + "/"
}

// inTime returns a context that is done before the test would hang.
func inTime(t *testing.T) context.Context {
	ctx, cancel := context.WithTimeout(t.Context(), 30*time.Second)
	t.Cleanup(cancel)
	return ctx
}

// refusal returns the status with which a server refuses pages of an origin, or 0.
func refusal(t *testing.T, url, origin string) int {
	t.Helper()
	c, err := websocket.Dial(inTime(t), url, &websocket.Options{Header: http.Header{"Origin": {origin}}})
	if err == nil {
		c.CloseNow()
		return 0
	}
	refused, ok := errors.AsType[*websocket.HandshakeError](err)
	if !ok {
		t.Fatal(err)
	}
	return refused.Status
}

// From gorilla/websocket.

type chatServer func() http.Handler

var (
	chatBefore chatServer = func() http.Handler { return before.NewChat() }
	chatAfter  chatServer = func() http.Handler { return after.NewChat() }
)

func TestChat(t *testing.T) {
	eachPair(t, chatBefore, chatAfter, before.Join, after.Join, func(t *testing.T, newChat chatServer, join joiner) {
		url := serve(t, newChat())
		ctx, leave := context.WithCancel(inTime(t))
		var heard [2]chan string
		ended := make(chan error, 2)
		for i, hello := range []string{"hello from Alice", "hello from Bob"} {
			heard[i] = make(chan string, 10)
			go func() { ended <- join(ctx, url, hello, func(s string) { heard[i] <- s }) }()
			for j := range i + 1 {
				if got := receive(t, heard[j]); got != hello {
					t.Errorf("client %d hears %q, not %q", j, got, hello)
				}
			}
		}
		err := join(ctx, url, strings.Repeat("x", 513), func(s string) { t.Errorf("a long message comes back: %.20s", s) })
		if err == nil || !strings.Contains(err.Error(), "1009") {
			t.Errorf("what ends the connection after a long message is %v, not 1009", err)
		}
		leave()
		for range 2 {
			if err := receive(t, ended); err != nil {
				t.Error(err)
			}
		}
	})
}

type joiner = func(ctx context.Context, url, hello string, heard func(string)) error

func receive[T any](t *testing.T, from <-chan T) (v T) {
	t.Helper()
	select {
	case v = <-from:
	case <-inTime(t).Done():
		t.Fatal("nothing comes")
	}
	return v
}

// TestChatSilence has both servers ping a client that is silent, and give it up.
func TestChatSilence(t *testing.T) {
	for name, newChat := range map[string]chatServer{"before": chatBefore, "after": chatAfter} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				client, end := net.Pipe()
				listener := &pipeListener{conns: make(chan net.Conn, 1)}
				listener.conns <- end
				server := &http.Server{Handler: newChat()}
				go server.Serve(listener)
				defer server.Close()

				io.WriteString(client, "GET / HTTP/1.1\r\nHost: example.com\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"+
					"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n")
				r := bufio.NewReader(client)
				if resp, err := http.ReadResponse(r, nil); err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
					t.Fatal(resp, err)
				}
				begin := time.Now()
				rest, _ := io.ReadAll(r)
				if !slices.Equal(rest, []byte{0x89, 0}) { // one empty ping
					t.Errorf("a silent client gets % x, not a ping", rest)
				}
				if d := time.Since(begin); d < 20*time.Second || d > time.Minute {
					t.Errorf("the connection ends after %v", d)
				}
			})
		})
	}
}

// A pipeListener accepts connections that are there already.
type pipeListener struct{ conns chan net.Conn }

func (l *pipeListener) Accept() (net.Conn, error) {
	if c, ok := <-l.conns; ok {
		return c, nil
	}
	return nil, net.ErrClosed
}

func (l *pipeListener) Close() error   { close(l.conns); return nil }
func (l *pipeListener) Addr() net.Addr { return &net.UnixAddr{} }

// From coder/websocket.

func TestAnswers(t *testing.T) {
	ask := func(ctx context.Context, url, text string) (string, error) {
		a, err := before.Ask(ctx, url, before.Question{Text: text})
		return a.Text, err
	}
	askAfter := func(ctx context.Context, url, text string) (string, error) {
		a, err := after.Ask(ctx, url, after.Question{Text: text})
		return a.Text, err
	}
	eachPair[http.HandlerFunc](t, before.Answers, after.Answers, ask, askAfter, func(t *testing.T, server http.HandlerFunc,
		ask func(ctx context.Context, url, text string) (string, error)) {
		url := serve(t, server)
		const want = "I think so, too: it rains"
		if got, err := ask(inTime(t), url, "it rains"); got != want || err != nil {
			t.Errorf("the answer is %q, %v, not %q", got, err, want)
		}
		// Where the server closes the socket the client may get no further than to that.
		if got, err := ask(inTime(t), url, strings.Repeat("x", 40<<10)); err == nil {
			t.Errorf("the answer to a long question is %.20q", got)
		}
		silent := serve(t, &websocket.Server{Options: websocket.Options{Protocols: []string{"answers"}}})
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		if got, err := ask(ctx, silent, "who is there?"); err == nil || ctx.Err() == nil {
			t.Errorf("the answer of a silent server is %q, %v", got, err)
		}
	})
}

// TestAnswersRefuse has both servers refuse the same: pages, subprotocols, and what is no JSON.
func TestAnswersRefuse(t *testing.T) {
	for name, server := range map[string]http.HandlerFunc{"before": before.Answers, "after": after.Answers} {
		t.Run(name, func(t *testing.T) {
			url := serve(t, server)
			for origin, want := range map[string]int{
				"https://app.example.com": 0,
				"http" + strings.TrimSuffix(strings.TrimPrefix(url, "ws"), "/"): 0,
				"https://example.org": http.StatusForbidden,
			} {
				if got := refusal(t, url, origin); got != want {
					t.Errorf("a page of %s gets %d, not %d", origin, got, want)
				}
			}
			for protocol, want := range map[string]websocket.CloseCode{
				"questions": websocket.ClosePolicyViolation,
				"answers":   websocket.CloseInvalidPayload,
			} {
				c, err := websocket.Dial(inTime(t), url, &websocket.Options{Protocols: []string{protocol}})
				if err != nil {
					t.Fatal(err)
				}
				defer c.CloseNow()
				c.WriteMessage(websocket.Text, []byte("this is no JSON"))
				_, _, err = c.ReadMessage()
				if closed, ok := errors.AsType[*websocket.CloseError](err); !ok || closed.Code != want {
					t.Errorf("%s: the connection ends with %v, not %v", protocol, err, want)
				}
			}
		})
	}
}

// From lxzan/gws.

func TestJobs(t *testing.T) {
	type newJobs = func(work func(user, task string) string) http.Handler
	type order = func(url string, header http.Header, tasks ...string) ([]string, error)
	eachPair[newJobs, order](t, before.NewJobs, after.NewJobs, before.Order, after.Order, func(t *testing.T, newJobs newJobs, order order) {
		second := make(chan struct{})
		url := serve(t, newJobs(func(user, task string) string {
			switch task {
			case "first":
				<-second // which is done while this one takes its time
			case "second":
				close(second)
			}
			return user + "'s " + task
		}))
		header := http.Header{"Authorization": {"Basic " + base64.StdEncoding.EncodeToString([]byte("Alice:secret"))}}
		done, err := order(url, header, "first", "second")
		slices.Sort(done)
		if want := []string{"Alice's first", "Alice's second"}; !slices.Equal(done, want) || err != nil {
			t.Errorf("done are %q, %v, not %q", done, err, want)
		}
		if done, err := order(url, nil, "first"); err == nil {
			t.Errorf("somebody has %q done", done)
		}
	})
}

// From gobwas/ws.

func TestControl(t *testing.T) {
	eachPair(t, before.Control, after.Control, before.Report, after.Report, func(t *testing.T, control func(net.Conn) error,
		report func(ctx context.Context, url, device string, report []byte) (string, string, error)) {
		listener, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer listener.Close()
		go func() {
			for {
				conn, err := listener.Accept()
				if err != nil {
					return
				}
				go control(conn)
			}
		}()
		url := "ws://" + listener.Addr().String() + "/"
		greeting, answer, err := report(inTime(t), url, "pump 7", []byte{0xff, 1})
		if greeting != "hello, pump 7" || answer != "noted: \xff\x01" || err != nil {
			t.Errorf("the device gets %q, %q, %v", greeting, answer, err)
		}
		if _, _, err := report(inTime(t), url, "", nil); err == nil || !strings.Contains(err.Error(), "403") {
			t.Errorf("who is no device gets %v, not 403", err)
		}
	})
}

// From golang.org/x/net/websocket.

func TestSums(t *testing.T) {
	const origin = "https://example.com"
	eachPair(t, before.Sums, after.Sums, before.Add, after.Add, func(t *testing.T, sums func(string) http.Handler,
		add func(url, origin string, numbers ...int) (int, error)) {
		url := serve(t, sums(origin))
		if sum, err := add(url, origin, 1, 2, 3, 4); sum != 10 || err != nil {
			t.Errorf("the sum is %d, %v, not 10", sum, err)
		}
		if sum, err := add(url, "https://example.org", 1); err == nil {
			t.Errorf("the sum for another origin is %d", sum)
		}
		if got := refusal(t, url, "https://example.org"); got != http.StatusForbidden {
			t.Errorf("another origin gets %d, not 403", got)
		}
	})
}
