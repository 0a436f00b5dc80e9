package interop

import (
	"context"
	"encoding/pem"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/54eee7d7/websocket"
)

// TestHTTP2 has a client talk over HTTP/2 (RFC 8441), which net/http knows only if the
// environment said so at the start of the process, so the program is started once more.
func TestHTTP2(t *testing.T) {
	clients := installed(t, []program{{
		name:    "Node",
		command: []string{"node_modules/.bin/node", "http2.js"},
		needed: needed{
			[]string{"node_modules/.bin/node", "-e", "process.exit(parseInt(process.versions.node) < 26 ? 1 : 0)"},
			"a Node whose WebSocket speaks HTTP/2, for amd64 or arm64 (run npm install in internal/interop)",
		},
	}})
	const setting = "http2xconnect=1"
	if !strings.Contains(os.Getenv("GODEBUG"), setting) {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^TestHTTP2$", "-test.v", "-test.timeout="+timeout.String())
		cmd.Env = append(os.Environ(), "GODEBUG="+strings.Trim(os.Getenv("GODEBUG")+","+setting, ","))
		out, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	ends := make(chan error, 1)
	handler := &websocket.Server{
		Options: options,
		Handler: websocket.Handler{
			OnOpen:    func(c *websocket.Conn) { c.WriteMessage(websocket.Text, []byte(greeting)) },
			OnMessage: func(c *websocket.Conn, typ websocket.MessageType, p []byte) { answer(ctx, c, typ, p) },
			OnClose:   func(_ *websocket.Conn, err error) { ends <- err },
		},
	}
	s := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.ProtoMajor != 2 {
			t.Errorf("the client speaks %s", r.Proto)
		}
		handler.ServeHTTP(w, r)
	}))
	s.EnableHTTP2 = true
	s.StartTLS()
	defer s.Close()
	trusted := filepath.Join(t.TempDir(), "cert.pem")
	cert := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: s.Certificate().Raw})
	if err := os.WriteFile(trusted, cert, 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv("NODE_EXTRA_CA_CERTS", trusted)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			const want = "open: meow\ngreeting: " + greeting + "\nanswer: hello, meow.\nanswer: , meow.\nanswer: γάτα 🐱, meow.\n" +
				"large: 70007 bytes\nclose: 3000\n"
			if got := c.start(t, ctx, "wss"+strings.TrimPrefix(s.URL, "https")+"/cats").end(t); got != want {
				t.Errorf("the client printed\n%swant\n%s", got, want)
			}
			e, ok := receive(t, ctx, ends, 1)[0].(*websocket.CloseError)
			if !ok || e.Code != 3000 || e.Reason != "bye" {
				t.Errorf("the connection has ended with %v", e)
			}
		})
	}
}
