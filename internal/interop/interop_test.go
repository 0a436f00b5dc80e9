// Package interop runs WebSocket clients and servers that others have written
// against this library.
//
// All servers here, on either side, greet their clients and answer a message
// with that message and a meow. Those that are written for the tests, which
// leaves out the echo example, also understand some commands:
//
//	request            what the client has sent in its opening handshake
//	fragments          answers in fragments, with a ping between them
//	close CODE REASON  closes the connection
//
// The tests are skipped unless WEBSOCKET_INTEROP is 1 in the environment. Then all
// of the programs have to be there: .github/CONTRIBUTING.md says how to install them.
package interop

import (
	"bufio"
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"strings"
	"testing"
	"time"
)

// timeout is how long one server and its clients may take together.
const timeout = time.Minute

const (
	greeting  = "Do you read me, Lieutenant Bowie?"
	broadcast = "Night falls."
)

// A program is a client or a server that others have written, with a script of
// ours around it.
type program struct {
	name    string
	command []string
	needed  needed
	hixie   bool
	short   bool // takes no large messages
}

// A needed thing has to be installed for a program.
type needed struct {
	probe []string // a command that fails where it is missing
	name  string
}

var (
	perl = needed{
		[]string{"perl", "-MProtocol::WebSocket", "-e", "1"},
		"perl and Protocol::WebSocket (Debian: libprotocol-websocket-perl)",
	}
	ruby = needed{
		[]string{"ruby", "-rwebsocket", "-e", "1"},
		"ruby and the gem websocket (Debian: ruby, ruby-websocket)",
	}
	node = needed{
		[]string{"node", "-e", "require('ws'); require.resolve('websocket-client')"},
		"node, ws and websocket-client (run npm install in internal/interop)",
	}
	python = needed{
		[]string{"/usr/bin/python3", "-c", "import websockets.legacy"},
		"Python and websockets (Debian: python3-websockets)",
	}
)

// installed returns those of the programs that are installed. The test fails for the
// others. It is skipped where nobody has asked for the programs of others.
func installed(t *testing.T, programs []program) (found []program) {
	t.Helper()
	if os.Getenv("WEBSOCKET_INTEROP") != "1" {
		t.Skip("runs the programs of others; once they are installed (.github/CONTRIBUTING.md): WEBSOCKET_INTEROP=1 go test ./internal/interop")
	}
	if runtime.GOOS == "windows" {
		t.Skip("needs a system that can interrupt a process")
	}
	// What a test looks at by itself outdates its cached result; what a
	// program does that it runs is not known.
	for _, glob := range []string{"../../examples/echo/*.go", "../../*_js_test.go", "*.pl", "*.py", "*.rb", "*.js", "*.java", "node_modules/*/package.json"} {
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
	probed := make(map[string]error)
	for _, p := range programs {
		need := p.needed
		err, ok := probed[need.name]
		if !ok {
			err = exec.CommandContext(t.Context(), need.probe[0], need.probe[1:]...).Run()
			probed[need.name] = err
		}
		if err != nil {
			t.Errorf("%s needs %s: %v", p.name, need.name, err)
			continue
		}
		found = append(found, p)
	}
	if len(found) == 0 {
		t.FailNow()
	}
	return found
}

// start starts p, which is killed when ctx is done.
func (p program) start(t *testing.T, ctx context.Context, args ...string) *process {
	t.Helper()
	started := start(t, ctx, append(p.command[:len(p.command):len(p.command)], args...)...)
	started.name = p.name
	return started
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
	return strings.TrimSuffix(line, "\n")
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

var listening = regexp.MustCompile(`^Listening on port (\d+)\.$`)

// port returns the port that p, which is a server, prints first.
func (p *process) port(t *testing.T) string {
	t.Helper()
	line := p.line(t)
	m := listening.FindStringSubmatch(line)
	if m == nil {
		t.Fatalf("the server printed %q", line)
	}
	return m[1]
}
