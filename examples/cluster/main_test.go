package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/nats-io/nats-server/v2/server"

	"github.com/54eee7d7/websocket"
)

const timeout = time.Minute

// TestMain is a node itself in the processes that start starts.
func TestMain(m *testing.M) {
	if os.Getenv("CLUSTER_NODE") != "" {
		main()
		return
	}
	os.Exit(m.Run())
}

// A process is a node in a process of its own.
type process struct {
	cmd    *exec.Cmd
	stderr *bufio.Reader
	id     string
	url    string // with a slash at the end
	addr   string
}

// start starts a node on a free port.
func start(t *testing.T, args ...string) *process {
	t.Helper()
	exe, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	t.Cleanup(cancel)
	p := new(process)
	p.cmd = exec.CommandContext(ctx, exe, append([]string{"-addr", "127.0.0.1:0"}, args...)...)
	p.cmd.Env = append(os.Environ(), "CLUSTER_NODE=1")
	stderr, err := p.cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.stderr = bufio.NewReader(stderr)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.kill)
	line, _ := p.stderr.ReadString('\n')
	var day, clock string
	if _, err := fmt.Sscanf(line, "%s %s Node %s listens on %s\n", &day, &clock, &p.id, &p.url); err != nil {
		p.cmd.Process.Kill()
		rest, _ := io.ReadAll(p.stderr)
		t.Fatalf("the node does not start: %v: %s%s", err, line, rest)
	}
	p.addr = strings.Trim(strings.TrimPrefix(p.url, "http:"), "/")
	return p
}

// kill ends the process as a loss of power would.
func (p *process) kill() {
	p.cmd.Process.Kill()
	p.cmd.Wait()
}

// startCluster starts nodes whose embedded servers join each other, and waits until each of them
// knows them all.
func startCluster(t *testing.T, size int) []*process {
	t.Helper()
	var listeners []net.Listener // all at once, so that their ports differ
	var addrs []string
	for range size {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		listeners = append(listeners, l)
		addrs = append(addrs, l.Addr().String())
	}
	for _, l := range listeners {
		l.Close()
	}
	var nodes []*process
	for i, own := range addrs {
		others := slices.Delete(slices.Clone(addrs), i, i+1)
		nodes = append(nodes, start(t, "--", "-cluster", "nats://"+own, "-routes", "nats://"+strings.Join(others, ",nats://")))
	}
	for _, p := range nodes {
		c := p.dial(t, "lobby", "first")
		c.expectNodes(t, nodes...)
		c.Close()
	}
	return nodes
}

// A client knows what a page would show.
type client struct {
	*websocket.Conn
	node    string            // where it is
	nodes   map[string]string // as the node has told them last
	here    map[string]event  // by node
	away    bool              // NATS is
	welcome bool
	said    []event // not taken yet
}

// dial connects a client.
func (p *process) dial(t *testing.T, room, name string) *client {
	t.Helper()
	conn, err := websocket.Dial(t.Context(), p.url+"chat?room="+room+"&name="+name, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.CloseNow() })
	if err := conn.SetDeadline(time.Now().Add(timeout)); err != nil {
		t.Fatal(err)
	}
	return &client{Conn: conn, node: p.id, here: map[string]event{}}
}

// wait reads events until a condition is true.
func (c *client) wait(t *testing.T, want string, condition func() bool) {
	t.Helper()
	for !condition() {
		_, p, err := c.ReadMessage()
		if err != nil {
			t.Fatalf("got %v, want %s; nodes are %v, here is %+v", err, want, c.nodes, c.here)
		}
		switch e := decode(t, p); e.Type {
		case "nodes":
			c.nodes, c.away = e.Nodes, e.Nodes[c.node] == ""
			if e.Node != c.node {
				t.Errorf("node %s says that it is %s", c.node, e.Node)
			}
			maps.DeleteFunc(c.here, func(id string, _ event) bool { return !c.away && c.nodes[id] == "" })
		case "here":
			c.here[e.Node] = e
		case "welcome":
			c.welcome = true
		case "said":
			c.said = append(c.said, e)
		default:
			t.Errorf("a node has sent %s", p)
		}
	}
}

func decode(t *testing.T, p []byte) (e event) {
	t.Helper()
	if err := json.Unmarshal(p, &e); err != nil {
		t.Errorf("a node has sent %q: %v", p, err)
	}
	return e
}

func (c *client) expectWelcome(t *testing.T) {
	t.Helper()
	c.wait(t, "a welcome", func() bool { return c.welcome })
}

// expectSaid takes the next message.
func (c *client) expectSaid(t *testing.T) event {
	t.Helper()
	c.wait(t, "a message", func() bool { return len(c.said) > 0 })
	e := c.said[0]
	c.said = c.said[1:]
	return e
}

func (c *client) expectNodes(t *testing.T, want ...*process) {
	t.Helper()
	urls := map[string]string{}
	for _, p := range want {
		urls[p.id] = strings.TrimSuffix(p.url, "/")
	}
	c.wait(t, fmt.Sprint("the nodes ", urls), func() bool { return maps.Equal(c.nodes, urls) })
}

// expectAway waits until the node says that NATS is away.
func (c *client) expectAway(t *testing.T) {
	t.Helper()
	c.wait(t, "word that NATS is away", func() bool { return c.away })
}

func (c *client) expectHere(t *testing.T, p *process, names ...string) {
	t.Helper()
	c.wait(t, fmt.Sprint(names, " at ", p.id), func() bool {
		e := c.here[p.id]
		return e.Count == len(names) && slices.Equal(e.Names, names)
	})
}

func (c *client) say(t *testing.T, text string) {
	t.Helper()
	if err := c.WriteMessage(websocket.Text, []byte(text)); err != nil {
		t.Fatal(err)
	}
}

func TestAlone(t *testing.T) {
	p := start(t)
	tom := p.dial(t, "cats", "Tom")
	tom.expectWelcome(t)
	tom.expectHere(t, p, "Tom")
	dog := p.dial(t, "dogs", "Spike")
	dog.expectWelcome(t)
	dog.say(t, "woof")
	dog.expectSaid(t)

	kit := p.dial(t, "cats", "Kit")
	kit.expectHere(t, p, "Tom", "Kit")
	tom.expectHere(t, p, "Tom", "Kit")
	for i, text := range []string{"meow", `{"Type":"welcome"}`, "\u2028 \x00 <b>", strings.Repeat("🐱", 1000)} {
		tom.say(t, text)
		for _, c := range []*client{tom, kit} {
			if e := c.expectSaid(t); e.Node != p.id || e.Name != "Tom" || e.Text != text || e.N != i+1 {
				t.Errorf("got %+v, want number %d, %q, by Tom", e, i+1, text)
			}
		}
	}
	tom.Close()
	kit.expectHere(t, p, "Kit")
	kit.Close()
	if runtime.GOOS == "windows" {
		return // where a process cannot be interrupted
	}
	if err := p.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	dog.expectClose(t, websocket.CloseGoingAway)
	rest, _ := io.ReadAll(p.stderr)
	if err := p.cmd.Wait(); err != nil || len(rest) > 0 {
		t.Errorf("the node has ended with %v: %s", err, rest)
	}
}

func (c *client) expectClose(t *testing.T, want websocket.CloseCode) {
	t.Helper()
	for {
		if _, _, err := c.ReadMessage(); err != nil {
			if e, ok := errors.AsType[*websocket.CloseError](err); !ok || e.Code != want {
				t.Errorf("the connection has ended with %v, want %v", err, want)
			}
			return
		}
	}
}

func TestRequest(t *testing.T) {
	p := start(t)
	for query, status := range map[string]int{
		"room=cats&name=Tom": http.StatusSwitchingProtocols,
		"room=cats":          http.StatusBadRequest,
		"name=Tom":           http.StatusBadRequest,
		"room=*&name=Tom":    http.StatusBadRequest,
		"room=a.b&name=Tom":  http.StatusBadRequest,
		"room=" + strings.Repeat("a", 31) + "&name=Tom": http.StatusBadRequest,
		"room=cats&name=" + strings.Repeat("a", 61):     http.StatusBadRequest,
	} {
		got := http.StatusSwitchingProtocols
		c, err := websocket.Dial(t.Context(), p.url+"chat?"+query, nil)
		if e, ok := errors.AsType[*websocket.HandshakeError](err); ok {
			got = e.Status
		} else if err != nil {
			t.Error(err)
		} else {
			c.CloseNow()
		}
		if got != status {
			t.Errorf("%s: got status %d, want %d", query, got, status)
		}
	}
	for _, name := range []string{"", "chat.css", "chat.js"} {
		resp, err := http.Get(p.url + name)
		if err != nil {
			t.Fatal(err)
		}
		body, err := io.ReadAll(resp.Body)
		resp.Body.Close()
		if err != nil || resp.StatusCode != http.StatusOK || len(body) == 0 {
			t.Errorf("%q has status %d and %d bytes (%v)", name, resp.StatusCode, len(body), err)
		}
	}
}

// A follower stays connected to a cluster, wherever a node is left.
type follower struct {
	events chan event // an empty one when a connection has ended
	conn   atomic.Pointer[websocket.Conn]
}

func follow(t *testing.T, nodes []*process, room, name string) *follower {
	t.Helper()
	dial := func(ctx context.Context, network, _ string) (net.Conn, error) { // as a balancer would
		var err error
		for _, p := range nodes {
			var c net.Conn
			if c, err = new(net.Dialer).DialContext(ctx, network, p.addr); err == nil {
				return c, nil
			}
		}
		return nil, err
	}
	f := &follower{events: make(chan event, 1<<16)}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	t.Cleanup(func() { cancel(); <-done })
	go func() {
		defer close(done)
		o := &websocket.Options{HTTPClient: &http.Client{Transport: &http.Transport{DialContext: dial}}}
		for c, err := range websocket.Reconnect(ctx, "ws://cluster.example/chat?room="+room+"&name="+name, o) {
			if err != nil {
				continue // a node that has died just now
			}
			f.conn.Store(c)
			c.Serve(websocket.Handler{OnMessage: func(_ *websocket.Conn, _ websocket.MessageType, p []byte) {
				f.events <- decode(t, p)
			}})
			f.events <- event{}
		}
	}()
	return f
}

// expect waits for an event.
func (f *follower) expect(t *testing.T, want string, is func(event) bool) event {
	t.Helper()
	end := time.After(timeout)
	for {
		select {
		case e := <-f.events:
			if is(e) {
				return e
			}
		case <-end:
			t.Fatalf("there is no %s", want)
		}
	}
}

func (f *follower) expectType(t *testing.T, want string) event {
	t.Helper()
	return f.expect(t, want, func(e event) bool { return e.Type == want })
}

// TestKill kills one of three nodes. Its clients come back at the others, and miss nothing that is
// said after they are welcome there.
func TestKill(t *testing.T) {
	nodes := startCluster(t, 3)
	dying, living := nodes[0], nodes[1:]
	stayed := living[1].dial(t, "cats", "stayed")
	stayed.expectWelcome(t)
	const size = 6
	var followers []*follower
	for i := range size {
		first := living[i%2] // where it will go to
		f := follow(t, []*process{dying, first}, "cats", fmt.Sprint("f", i))
		if e := f.expectType(t, "welcome"); e.Node != dying.id {
			t.Fatalf("a client is at %s, want %s", e.Node, dying.id)
		}
		followers = append(followers, f)
	}
	stayed.expectHere(t, dying, "f0", "f1", "f2", "f3", "f4", "f5")

	// Two who talk all the time, each as soon as it hears itself.
	var said [2]atomic.Int64
	ctx, cancel := context.WithCancel(t.Context())
	var talking sync.WaitGroup
	defer talking.Wait()
	defer cancel()
	for i, p := range living {
		c := p.dial(t, "cats", fmt.Sprint("talker", i))
		talking.Go(func() {
			for ctx.Err() == nil {
				said[i].Add(1)
				text := fmt.Sprint(said[i].Load())
				if c.WriteMessage(websocket.Text, []byte(text)) != nil {
					t.Error("a talker is cut off")
					return
				}
				for {
					_, p, err := c.ReadMessage()
					if err != nil {
						t.Error(err)
						return
					}
					if e := decode(t, p); e.Type == "said" && e.Node == living[i].id && e.Text == text {
						break
					}
				}
			}
		})
	}
	for _, f := range followers {
		f.expectType(t, "said")
	}
	dying.kill()
	for i, f := range followers {
		f.expect(t, "end", func(e event) bool { return e.Type == "" })
		base := map[string]int{} // what each node has said before the client was back
		back := f.expect(t, "welcome", func(e event) bool {
			if e.Type == "here" {
				base[e.Node] = e.N
			}
			return e.Type == "welcome"
		})
		if want := living[i%2].id; back.Node != want {
			t.Errorf("a client is back at %s, want %s", back.Node, want)
		}
		var next, end [2]int
		for j, p := range living {
			next[j], end[j] = base[p.id]+1, int(said[j].Load())+20
			if base[p.id] == 0 {
				t.Errorf("%s was not told what has been said", back.Node)
			}
		}
		for next[0] < end[0] || next[1] < end[1] {
			e := f.expectType(t, "said")
			j := slices.IndexFunc(living, func(p *process) bool { return p.id == e.Node })
			if j < 0 {
				t.Fatalf("%+v is from nobody", e)
			}
			if e.N < next[j] && next[j] == base[e.Node]+1 {
				continue // it was under way
			}
			if e.N != next[j] || e.Text != fmt.Sprint(e.N) {
				t.Fatalf("client %d got message %d (%s) of %s, want %d", i, e.N, e.Text, e.Node, next[j])
			}
			next[j]++
		}
	}
	stayed.expectNodes(t, living...)
	stayed.wait(t, "f1, f3 and f5 where they are now", func() bool {
		names := stayed.here[living[1].id].Names
		return slices.Contains(names, "f1") && slices.Contains(names, "f3") && slices.Contains(names, "f5")
	})
}

// TestStop stops one of two nodes, which a connection without a request holds up for some seconds, as
// one of a browser may. Once the other node has heard that it is gone, it stays so.
func TestStop(t *testing.T) {
	if runtime.GOOS == "windows" {
		t.Skip("a process cannot be interrupted")
	}
	nodes := startCluster(t, 2)
	living, stopped := nodes[0], nodes[1]
	tom := living.dial(t, "cats", "Tom")
	held, err := net.Dial("tcp", stopped.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer held.Close()
	kit := stopped.dial(t, "cats", "Kit") // accepted after that
	kit.expectWelcome(t)
	if err := stopped.cmd.Process.Signal(os.Interrupt); err != nil {
		t.Fatal(err)
	}
	kit.expectClose(t, websocket.CloseGoingAway)
	tom.expectNodes(t, nodes...)
	tom.expectNodes(t, living)
	if err := stopped.cmd.Wait(); err != nil {
		t.Errorf("the node has ended with %v", err)
	}
	tom.say(t, "Where is Kit?")
	tom.expectSaid(t)
	if len(tom.nodes) != 1 {
		t.Errorf("the nodes are %v", tom.nodes)
	}
}

// TestNATSAway has NATS end and come back after 5 seconds. The clients are told, and stay.
func TestNATSAway(t *testing.T) {
	run := func(port int) *server.Server {
		s, err := server.NewServer(&server.Options{Host: "127.0.0.1", Port: port, NoSigs: true, NoLog: true})
		if err != nil {
			t.Fatal(err)
		}
		go s.Start()
		if !s.ReadyForConnections(timeout) {
			t.Fatal("NATS does not start")
		}
		t.Cleanup(s.Shutdown)
		return s
	}
	s := run(server.RANDOM_PORT)
	port := s.Addr().(*net.TCPAddr).Port
	one, two := start(t, "-nats", s.ClientURL()), start(t, "-nats", s.ClientURL())
	tom := one.dial(t, "cats", "Tom")
	tom.expectNodes(t, one, two)
	kit := two.dial(t, "cats", "Kit")
	kit.expectHere(t, one, "Tom")
	kit.expectWelcome(t)

	s.Shutdown()
	back := time.After(5 * time.Second)
	tom.expectAway(t)
	kit.expectAway(t)
	tom.say(t, "Is anybody there?") // nobody hears that, now or later
	late := two.dial(t, "cats", "Late")
	late.expectAway(t)
	<-back
	run(port)
	for _, c := range []*client{tom, kit, late} {
		c.expectNodes(t, one, two)
	}
	late.expectHere(t, one, "Tom")
	tom.expectHere(t, two, "Kit", "Late")
	tom.say(t, "You are back!")
	for _, c := range []*client{tom, kit, late} {
		if e := c.expectSaid(t); e.Text != "You are back!" || e.N != 1 {
			t.Errorf("got %+v", e)
		}
	}
}

// TestEveryMessageOnce has 1,000 clients of three nodes in one room count what they get.
func TestEveryMessageOnce(t *testing.T) {
	const size, talkers, each = 1000, 12, 10
	nodes := startCluster(t, 3)
	var ready, heard, ended sync.WaitGroup
	conns := make([]*websocket.Conn, size)
	counts := make([]int, size)
	slots := make(chan struct{}, 50) // handshakes at once
	for i := range size {
		slots <- struct{}{}
		c, err := websocket.Dial(t.Context(), fmt.Sprintf("%schat?room=cats&name=%d", nodes[i%3].url, i), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		conns[i] = c
		ready.Add(1)
		heard.Add(1)
		next := make(map[string]int, talkers) // by who talks
		ended.Go(func() {
			err := c.Serve(websocket.Handler{OnMessage: func(_ *websocket.Conn, _ websocket.MessageType, p []byte) {
				switch e := decode(t, p); e.Type {
				case "welcome":
					<-slots
					ready.Done()
				case "said":
					if want := fmt.Sprint(next[e.Name]); e.Text != want {
						t.Errorf("client %d got message %s of %s, want %s", i, e.Text, e.Name, want)
					}
					next[e.Name]++
					if counts[i]++; counts[i] == talkers*each {
						heard.Done()
					}
				}
			}})
			if !errors.Is(err, io.EOF) {
				t.Errorf("client %d has ended with %v", i, err)
			}
		})
	}
	expectDone(t, &ready, "not all clients are welcome")
	for i := range talkers {
		go func() {
			for n := range each {
				if err := conns[i].WriteMessage(websocket.Text, []byte(fmt.Sprint(n))); err != nil {
					t.Error(err)
				}
			}
		}()
	}
	expectDone(t, &heard, "not all clients have got all messages")
	for _, c := range conns {
		go c.Close() // after all that is still under way
	}
	expectDone(t, &ended, "not all clients have ended")
	total := 0
	for i, n := range counts {
		if total += n; n != talkers*each {
			t.Errorf("client %d got %d messages, want %d", i, n, talkers*each)
		}
	}
	t.Logf("%d messages reached %d clients: %d in all", talkers*each, size, total)
}

func expectDone(t *testing.T, g *sync.WaitGroup, fault string) {
	t.Helper()
	done := make(chan struct{})
	go func() { g.Wait(); close(done) }()
	select {
	case <-done:
	case <-time.After(timeout):
		t.Fatal(fault)
	}
}
