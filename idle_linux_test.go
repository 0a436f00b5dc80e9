package websocket

import (
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// A sleeper is an idler over one end of a pair of sockets.
type sleeper struct {
	place nap
	raw   syscall.RawConn
	conn  net.Conn
	woken chan struct{}
}

func (s *sleeper) napping() *nap                    { return &s.place }
func (s *sleeper) control(f func(fd uintptr)) error { return s.raw.Control(f) }
func (s *sleeper) goOn()                            { s.woken <- struct{}{} }

func newSleeper(t testing.TB) (s *sleeper, peer net.Conn) {
	t.Helper()
	fds, err := syscall.Socketpair(syscall.AF_UNIX, syscall.SOCK_STREAM|syscall.SOCK_CLOEXEC|syscall.SOCK_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		f := os.NewFile(uintptr(fd), "")
		if ends[i], err = net.FileConn(f); err != nil {
			t.Fatal(err)
		}
		f.Close()
		t.Cleanup(func() { ends[i].Close() })
	}
	raw, err := ends[0].(*net.UnixConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	return &sleeper{raw: raw, conn: ends[0], woken: make(chan struct{}, 10)}, ends[1]
}

// take reads a byte that has come.
func (s *sleeper) take(t testing.TB) {
	t.Helper()
	if _, err := s.conn.Read(make([]byte, 1)); err != nil {
		t.Fatal(err)
	}
}

// TestIdlers has each thing end a wait that can, and nothing else.
func TestIdlers(t *testing.T) {
	var p idlers
	a, peer := newSleeper(t)
	b, _ := newSleeper(t)
	if !p.wait(a) || !p.wait(b) || !p.waits(a) {
		t.Fatal("they do not wait")
	}
	peer.Write([]byte("x"))
	wait(t, a.woken)
	if p.waits(a) || !p.waits(b) {
		t.Error("not the one that has input goes on")
	}
	if !p.wait(a) {
		t.Fatal("it does not wait again")
	}
	wait(t, a.woken) // for what has not been read
	a.take(t)
	if !p.wait(a) {
		t.Fatal("it does not wait a third time")
	}
	p.wake(a)
	wait(t, a.woken)
	if p.wake(a); !p.wait(a) {
		t.Fatal("it does not wait after wake")
	}
	peer.Close()
	wait(t, a.woken)
	p.wait(a)
	wait(t, a.woken)
	p.leave(a, true)
	if p.leave(a, true); p.wait(a) {
		t.Error("it waits although it has left")
	}
	if len(a.woken) > 0 || len(b.woken) > 0 {
		t.Errorf("%d and %d wakes too many", len(a.woken), len(b.woken))
	}
	p.leave(b, true)
	wait(t, b.woken)
	awaitEnd(t, &p)
	c, _ := newSleeper(t)
	c.conn.Close()
	if p.wait(c) || c.place.slot != 0 {
		t.Error("one whose descriptor is closed waits")
	}
	awaitEnd(t, &p)
	d, peer := newSleeper(t)
	if !p.wait(d) {
		t.Fatal("it does not wait after all have left")
	}
	peer.Write([]byte("x"))
	wait(t, d.woken)
	p.leave(d, true)
	awaitEnd(t, &p)
}

// awaitEnd waits until the goroutine of p, in which nobody is any more, has ended.
func awaitEnd(t *testing.T, p *idlers) {
	t.Helper()
	for begin := time.Now(); ; runtime.Gosched() {
		p.mu.Lock()
		n, slots, runs := p.n, p.slots, p.runs
		p.mu.Unlock()
		switch {
		case n > 0 || slots != nil:
			t.Fatalf("%d are left", n)
		case !runs:
			return
		case time.Since(begin) > 20*time.Second:
			t.Fatal("the goroutine is there with nobody in it")
		}
	}
}

// TestIdlersStale delivers events after something else has ended the wait that they are for: after
// wake, after the next wait began, and after another idler got the slot, and the descriptor.
func TestIdlersStale(t *testing.T) {
	var p idlers
	keep, _ := newSleeper(t)
	p.wait(keep) // and the epoll stays
	a, _ := newSleeper(t)
	event := func(s *sleeper) (slot int32, number uint32) {
		p.mu.Lock()
		defer p.mu.Unlock()
		return s.place.slot - 1, p.slots[s.place.slot-1].number
	}
	deliver := func(slot int32, number uint32) bool {
		p.mu.Lock()
		defer p.mu.Unlock()
		return p.take(slot, number)
	}
	p.wait(a)
	slot, number := event(a)
	p.wake(a)
	wait(t, a.woken)
	if deliver(slot, number) {
		t.Error("it goes on twice")
	}
	p.wait(a)
	if deliver(slot, number) || !p.waits(a) {
		t.Error("an event of the wait before ends this one")
	}
	slot, number = event(a)
	p.leave(a, true)
	wait(t, a.woken)
	if deliver(slot, number) {
		t.Error("one that has left goes on again")
	}
	a.conn.Close()
	b, peer := newSleeper(t)
	p.wait(b)
	if s, _ := event(b); s != slot {
		t.Fatalf("the slot is %d, not %d", s, slot)
	}
	if deliver(slot, number) || !p.waits(b) {
		t.Error("an event for another one ends its wait")
	}
	p.mu.Lock()
	p.number = ^uint32(0) // no wait has the number 0
	p.mu.Unlock()
	p.wake(b)
	wait(t, b.woken)
	p.wait(b)
	peer.Write([]byte("x"))
	wait(t, b.woken)
	p.leave(keep, true)
	p.leave(b, true)
	if deliver(slot, number) {
		t.Error("an event comes for one that is gone")
	}
}

// TestIdlersCopy closes a descriptor of which there is a copy: the epoll must not keep that.
func TestIdlersCopy(t *testing.T) {
	var p idlers
	keep, _ := newSleeper(t)
	a, peer := newSleeper(t)
	p.wait(keep)
	p.wait(a)
	f, err := a.conn.(*net.UnixConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	p.leave(a, true)
	wait(t, a.woken)
	a.conn.Close()
	peer.Write([]byte("x"))
	events := make([]syscall.EpollEvent, 1)
	if n, err := syscall.EpollWait(p.fd, events, 0); n != 0 || err != nil {
		t.Errorf("%d events, %v", n, err)
	}
	p.leave(keep, true)
}

// TestIdlersRace ends waits in all ways at once, over and over: each is ended once.
func TestIdlersRace(t *testing.T) {
	trials := 25000
	if testing.Short() {
		trials = 2500
	}
	var p idlers
	var group sync.WaitGroup
	for i := range 4 {
		group.Go(func() {
			rng := rand.New(rand.NewPCG(uint64(i), 15))
			s, peer := newSleeper(t)
			for trial := range trials {
				if !p.wait(s) {
					t.Error("it does not wait")
					return
				}
				ways := 1 + rng.IntN(7)
				var enders sync.WaitGroup
				if ways&1 != 0 {
					enders.Go(func() { peer.Write([]byte("x")) })
				}
				if ways&2 != 0 {
					enders.Go(func() { p.wake(s) })
				}
				if ways&4 != 0 {
					enders.Go(func() { p.wake(s) })
				}
				leaves := trial%10 == 9
				if leaves {
					enders.Go(func() { p.leave(s, true) })
				}
				<-s.woken
				enders.Wait()
				if ways&1 != 0 {
					s.take(t)
				}
				if p.waits(s) || len(s.woken) > 0 {
					t.Error("a wait has ended twice")
					return
				}
				if leaves { // and the next one gets its slot and descriptor
					s.conn.Close()
					peer.Close()
					s, peer = newSleeper(t)
				}
			}
			p.leave(s, true)
		})
	}
	group.Wait()
	awaitEnd(t, &p)
}

// TestServerRestRaces ends connections in all ways at the moment at which they wake: OnClose is
// called once for each, and no message is lost that was answered, nor comes twice.
func TestServerRestRaces(t *testing.T) {
	t.Run("unix", func(t *testing.T) { testServerRestRaces(t, "unix", t.TempDir()+"/s") })
	t.Run("tcp", func(t *testing.T) { testServerRestRaces(t, "tcp", "127.0.0.1:0") })
}

func testServerRestRaces(t *testing.T, network, addr string) {
	trials := 2000
	if testing.Short() {
		trials = 100
	}
	var messages, more, opened, closed atomic.Int64
	conns := make(chan *Conn, 16)
	s := &Server{Options: Options{CloseTimeout: 20 * time.Millisecond}}
	s.OnOpen = func(c *Conn) { opened.Add(1); conns <- c }
	s.OnMessage = func(c *Conn, m MessageType, p []byte) { messages.Add(1); c.WriteMessage(m, p) }
	s.OnClose = func(*Conn, error) { closed.Add(1) }
	l, err := net.Listen(network, addr)
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			c := NewConn(conn, &s.Options)
			if _, err := ShakeHands(c); err != nil {
				t.Error(err)
			}
			if err := s.Adopt(c, s.Handler); err != nil {
				t.Error(err)
			}
		}
	}()
	echoed := int64(0)
	rng := rand.New(rand.NewPCG(15, 1))
	for range trials {
		conn, err := net.Dial(network, l.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		client, err := ClientHandshake(conn, "ws://server.example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		c := wait(t, conns)
		for range rng.IntN(3) {
			if err := client.WriteMessage(Text, []byte("Hello")); err != nil {
				t.Fatal(err)
			}
			expectMessages(t, client, "Hello")
			echoed++
		}
		if rng.IntN(2) == 0 {
			for !s.resting.waits(c) && rng.IntN(50) > 0 {
				runtime.Gosched()
			}
		}
		var ends sync.WaitGroup
		for _, end := range []func(){
			func() { more.Add(1); client.WriteMessage(Text, nil) },
			func() { c.CloseNow() },
			func() { c.CloseWith(4000, "") },
			func() { conn.Close() },
			func() { c.SetReadDeadline(time.Unix(1, 0)) },
			func() { s.Broadcast(Text, []byte("news")) },
			func() { c.RemoteAddr() },
			func() { c.look(c.serve.clock.now.Load() + ticks) },
			func() { c.abort(errSilent) },
		} {
			if rng.IntN(4) == 0 {
				ends.Go(end)
			}
		}
		ends.Wait()
		client.CloseNow()
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	if o, c := opened.Load(), closed.Load(); o != int64(trials) || c != o {
		t.Errorf("%d opened, %d closed", o, c)
	}
	if n := messages.Load(); n < echoed || n > echoed+more.Load() {
		t.Errorf("%d messages, of %d that were answered and %d more", n, echoed, more.Load())
	}
	awaitEnd(t, &s.resting)
	if s.clock.n != 0 {
		t.Error("the clock has something left of the connections")
	}
}

// A connection that rests has given back what only reads need.
func TestServerRestReleases(t *testing.T) {
	opened := make(chan *Conn, 1)
	s := &Server{Options: Options{PingInterval: time.Hour}, Handler: Handler{OnOpen: func(c *Conn) { opened <- c }}}
	l := serveTCP(t, s, false)
	t.Cleanup(func() { s.Shutdown(t.Context()) })
	client, err := ClientHandshake(dialTCP(t, l), "ws://server.example.com/", nil)
	if err != nil {
		t.Fatal(err)
	}
	defer client.CloseNow()
	c := wait(t, opened)
	awaitRest(t, s, 1, 0)
	s.resting.mu.Lock() // whatever wakes it comes later
	defer s.resting.mu.Unlock()
	if c.read.reading != nil || c.t.in != nil {
		t.Error("a connection that rests holds a buffer, or the state of a message")
	}
}
