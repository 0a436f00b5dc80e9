// Package interop runs WebSocket clients that others have written against the
// echo example.
//
// A client that is not installed is skipped, unless WEBSOCKET_INTEROP is 1 in
// the environment: then it has to be there.
package interop

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"

	_ "github.com/54eee7d7/websocket" // outdates cached test results
)

// timeout is how long one server and its clients may take together.
const timeout = 2 * time.Minute

// A client is a program that talks to the echo server. It takes the port and
// "talk", for the whole conversation, or "wait", for the greeting and the
// server's goodbye.
type client struct {
	name    string
	command []string
	probe   []string // a command that fails where something is missing
	needs   string   // what to install then
	hixie   bool
	short   bool // takes no large messages
}

// jars is the class path of Netty, where Debian has it.
var jars = func() string {
	const path = "/usr/share/java/netty-%s.jar"
	var jars []string
	for _, name := range []string{"buffer", "codec", "codec-http", "common", "handler", "resolver", "transport"} {
		jars = append(jars, fmt.Sprintf(path, name))
	}
	return strings.Join(jars, ":")
}()

var clients = []client{
	{
		name:    "Perl",
		command: []string{"perl", "client.pl", "draft-ietf-hybi-17"},
		probe:   []string{"perl", "-MProtocol::WebSocket", "-e", "1"},
		needs:   "perl and Protocol::WebSocket (Debian: libprotocol-websocket-perl)",
	},
	{
		name:    "PerlHixie76",
		command: []string{"perl", "client.pl", "draft-ietf-hybi-00"},
		probe:   []string{"perl", "-MProtocol::WebSocket", "-e", "1"},
		needs:   "perl and Protocol::WebSocket (Debian: libprotocol-websocket-perl)",
		hixie:   true,
	},
	{
		name:    "Ruby",
		command: []string{"ruby", "client.rb", "13"},
		probe:   []string{"ruby", "-rwebsocket", "-e", "1"},
		needs:   "ruby and the gem websocket (Debian: ruby, ruby-websocket)",
	},
	{
		name:    "RubyHixie76",
		command: []string{"ruby", "client.rb", "76"},
		probe:   []string{"ruby", "-rwebsocket", "-e", "1"},
		needs:   "ruby and the gem websocket (Debian: ruby, ruby-websocket)",
		hixie:   true,
	},
	{
		name:    "Node",
		command: []string{"node", "ws.js"},
		probe:   []string{"node", "-e", "require('ws')"},
		needs:   "node and ws (run npm install in internal/interop)",
	},
	{
		name:    "NodeHixie76",
		command: []string{"node", "hixie.js"},
		probe:   []string{"node", "-e", "require.resolve('websocket-client')"},
		needs:   "node and websocket-client (run npm install in internal/interop)",
		hixie:   true,
	},
	{
		name:    "Netty",
		command: []string{"java", "-XX:TieredStopAtLevel=1", "-cp", jars, "Client.java", "V13"},
		probe:   []string{"javap", "-cp", jars, "io.netty.handler.codec.http.websocketx.WebSocketVersion"},
		needs:   "a JDK and Netty (Debian: default-jdk-headless, libnetty-java)",
	},
	{
		name:    "NettyHixie76",
		command: []string{"java", "-XX:TieredStopAtLevel=1", "-cp", jars, "Client.java", "V00"},
		probe:   []string{"javap", "-cp", jars, "io.netty.handler.codec.http.websocketx.WebSocketVersion"},
		needs:   "a JDK and Netty (Debian: default-jdk-headless, libnetty-java)",
		hixie:   true,
		short:   true,
	},
}

// talk is what a client prints of the whole conversation.
func (c client) talk() string {
	lines := []string{greeting, "hello: hello, meow.", "empty: , meow.", "unicode: γάτα 🐱, meow."}
	if !c.short {
		lines = append(lines, "large: 70007 bytes")
	}
	lines = append(lines, "batch: one, meow. two, meow. three, meow.")
	if c.hixie {
		lines = append(lines, "close: FF 00")
	} else {
		lines = append(lines, "pong: purr", "fragmented: fragmented, meow.", "close: 1000")
	}
	return strings.Join(append(lines, "end: EOF"), "\n") + "\n"
}

const greeting = "greeting: Do you read me, Lieutenant Bowie?"

// goodbye is what a client prints after the greeting when the server is
// interrupted.
func (c client) goodbye() string {
	if c.hixie {
		return "close: FF 00\nend: EOF\n"
	}
	return "close: 1001\nend: EOF\n"
}

// strict reports whether everything has to be installed.
func strict() bool { return os.Getenv("WEBSOCKET_INTEROP") == "1" }

// missing returns what is needed to run c here, or an empty string.
func (c client) missing(ctx context.Context) string {
	if err := exec.CommandContext(ctx, c.probe[0], c.probe[1:]...).Run(); err != nil {
		return fmt.Sprintf("needs %s: %v", c.needs, err)
	}
	return ""
}

// start starts c, which is killed when ctx is done.
func (c client) start(t *testing.T, ctx context.Context, port, mode string) *process {
	t.Helper()
	return start(t, ctx, append(c.command[:len(c.command):len(c.command)], port, mode)...)
}

// A process is a program that has been started.
type process struct {
	cmd    *exec.Cmd
	name   string
	stdout *bufio.Reader
	stderr bytes.Buffer
}

func start(t *testing.T, ctx context.Context, command ...string) *process {
	t.Helper()
	p := &process{cmd: exec.CommandContext(ctx, command[0], command[1:]...), name: filepath.Base(command[0])}
	p.cmd.Stderr = &p.stderr
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stdout = bufio.NewReader(stdout)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.cmd.Process.Kill()
		p.cmd.Wait()
	})
	return p
}

// line returns the next line of p's output.
func (p *process) line(t *testing.T) string {
	t.Helper()
	line, err := p.stdout.ReadString('\n')
	if err != nil {
		p.cmd.Wait() // ends what it has for stderr
		t.Fatalf("%s printed %q: %v\n%s", p.name, line, err, &p.stderr)
	}
	return line
}

// end waits until p has ended without a fault and returns the rest of its
// output.
func (p *process) end(t *testing.T) string {
	t.Helper()
	out, err := io.ReadAll(p.stdout)
	if err != nil {
		t.Fatal(err)
	}
	if err := p.cmd.Wait(); err != nil {
		t.Fatalf("%s: %v, after it printed\n%s%s", p.name, err, out, &p.stderr)
	}
	return string(out)
}

// interrupt sends p what Ctrl-C sends.
func (p *process) interrupt(t *testing.T) {
	t.Helper()
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
}

// build returns the path of the echo server.
func build(t *testing.T) string {
	t.Helper()
	if runtime.GOOS == "windows" {
		t.Skip("needs a system that can interrupt a process")
	}
	if _, err := exec.LookPath("go"); err != nil {
		if strict() {
			t.Fatal(err)
		}
		t.Skip("needs the go command:", err)
	}
	// What a test looks at by itself outdates its cached result; what a
	// program does that it runs is not known.
	for _, glob := range []string{"../../examples/echo/*.go", "*.pl", "*.rb", "*.js", "*.java", "node_modules/*/package.json"} {
		names, err := filepath.Glob(glob)
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if _, err := os.Stat(name); err != nil {
				t.Fatal(err)
			}
		}
	}
	echo := filepath.Join(t.TempDir(), "echo")
	if out, err := exec.CommandContext(t.Context(), "go", "build", "-o", echo, "../../examples/echo").CombinedOutput(); err != nil {
		t.Fatalf("go build: %v\n%s", err, out)
	}
	return echo
}

var listening = regexp.MustCompile(`^Listening on port (\d+)\.\n$`)

// serve starts the echo server and returns it and its port.
func serve(t *testing.T, ctx context.Context, echo string) (*process, string) {
	t.Helper()
	server := start(t, ctx, echo, "-addr", "127.0.0.1:0")
	line := server.line(t)
	m := listening.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("the server printed %q", line)
	}
	return server, m[1]
}

const (
	welcome = "Shook hands, sent welcome message.\n"
	eof     = "EOF encountered. Closing handle.\n"
)

// TestTalk has each client go through the whole conversation.
func TestTalk(t *testing.T) {
	echo := build(t)
	for _, c := range clients {
		t.Run(c.name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), timeout)
			defer cancel()
			if reason := c.missing(ctx); reason != "" {
				if strict() {
					t.Fatal(reason)
				}
				t.Skip(reason)
			}
			server, port := serve(t, ctx, echo)
			if got, want := c.start(t, ctx, port, "talk").end(t), c.talk(); got != want {
				t.Errorf("the client printed\n%swant\n%s", got, want)
			}
			server.interrupt(t)
			if got, want := server.end(t), welcome+eof; got != want {
				t.Errorf("the server printed\n%swant\n%s", got, want)
			}
		})
	}
}

// TestInterrupt has an interrupted server say goodbye to clients of both
// versions.
func TestInterrupt(t *testing.T) {
	echo := build(t)
	ctx, cancel := context.WithTimeout(t.Context(), timeout)
	defer cancel()
	server, port := serve(t, ctx, echo)

	var open []client
	var waiting []*process
	for _, c := range clients {
		if reason := c.missing(ctx); reason != "" {
			if strict() {
				t.Fatal(reason)
			}
			t.Log(c.name, reason)
			continue
		}
		open = append(open, c)
		waiting = append(waiting, c.start(t, ctx, port, "wait"))
	}
	if len(open) == 0 {
		t.Skip("needs a client")
	}
	for i, p := range waiting {
		if got := p.line(t); got != greeting+"\n" {
			t.Fatalf("%s printed %q", open[i].name, got)
		}
	}

	server.interrupt(t)
	for i, p := range waiting {
		if got, want := p.end(t), open[i].goodbye(); got != want {
			t.Errorf("%s printed\n%swant\n%s", open[i].name, got, want)
		}
	}
	out := server.end(t)
	for _, line := range []string{welcome, eof} {
		if got, want := strings.Count(out, line), len(open); got != want {
			t.Errorf("the server printed %q %d times, want %d", line, got, want)
		}
	}
}
