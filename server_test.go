package websocket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A pipedServer is an http.Server whose connections are pipes in memory, so that it can
// run in a bubble.
type pipedServer struct {
	http.Server
	conns  chan net.Conn
	closed chan struct{}
	once   sync.Once
	wrap   func(net.Conn) net.Conn // of the server's end, if not nil
	log    serverLog
}

// A serverLog collects what an http.Server logs.
type serverLog struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (l *serverLog) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *serverLog) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// servePiped serves h until the test ends.
func servePiped(t testing.TB, h http.Handler) *pipedServer {
	s := &pipedServer{conns: make(chan net.Conn), closed: make(chan struct{})}
	s.Server.Handler = h
	s.ErrorLog = log.New(&s.log, "", 0)
	done := goErr(func() error { return s.Serve(s) })
	t.Cleanup(func() {
		if h, ok := h.(*Server); ok {
			ctx, cancel := context.WithCancel(context.Background())
			cancel()
			h.Shutdown(ctx)
		}
		s.Server.Close()
		wait(t, done)
	})
	return s
}

func (s *pipedServer) Accept() (net.Conn, error) {
	select {
	case c := <-s.conns:
		return c, nil
	case <-s.closed:
		return nil, net.ErrClosed
	}
}

func (s *pipedServer) Close() error {
	s.once.Do(func() { close(s.closed) })
	return nil
}

func (s *pipedServer) Addr() net.Addr { return noAddr{} }

// connect returns the client's end of a new connection.
func (s *pipedServer) connect(t testing.TB) net.Conn {
	a, b := net.Pipe()
	if s.wrap != nil {
		a = s.wrap(a)
	}
	t.Cleanup(func() { b.Close() })
	select {
	case s.conns <- a:
	case <-s.closed:
		a.Close()
	}
	return b
}

// join opens a connection as a client of RFC 6455 does.
func (s *pipedServer) join(t testing.TB, path string, o *Options) *Conn {
	t.Helper()
	c, err := ClientHandshake(s.connect(t), "ws://server.example.com"+path, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.CloseNow() })
	return c
}

// joinHixie opens a connection as a client of hixie-76 does. It returns its end, and a
// Conn over that.
func (s *pipedServer) joinHixie(t testing.TB) (*Conn, net.Conn) {
	t.Helper()
	conn := s.connect(t)
	go io.WriteString(conn, hixieHead+hixieToken)
	// The server says nothing more until it is told to, so that a buffered reader
	// takes the response and nothing else.
	r := bufio.NewReader(conn)
	resp, err := http.ReadResponse(r, nil)
	if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
		t.Fatalf("response %v, %v", resp, err)
	}
	if _, err := r.Discard(16); err != nil || r.Buffered() != 0 {
		t.Fatalf("no token, or %d bytes behind it: %v", r.Buffered(), err)
	}
	c := newConn(conn, nil, true)
	c.dec.hixie = true
	t.Cleanup(func() { c.CloseNow() })
	return c, conn
}

// expectMessages reads messages from c and compares them.
func expectMessages(t testing.TB, c *Conn, want ...string) {
	t.Helper()
	for i, want := range want {
		c.SetReadDeadline(time.Now().Add(20 * time.Second))
		if _, p, err := c.ReadMessage(); err != nil || string(p) != want {
			t.Fatalf("message %d is %.40q (%d bytes), %v, want %.40q", i, p, len(p), err, want)
		}
	}
	c.SetReadDeadline(time.Time{})
}

// expectClose reads from c until it is closed and compares the code.
func expectClose(t testing.TB, c *Conn, code CloseCode) {
	t.Helper()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	for {
		_, _, err := c.ReadMessage()
		if err == nil {
			continue
		}
		if e, ok := errors.AsType[*CloseError](err); !ok || e.Code != code {
			t.Errorf("closed with %v, want %v", err, code)
		}
		return
	}
}

// checkCode compares the code of an error and who has closed.
func checkCode(t testing.TB, err error, code CloseCode, by closedBy) {
	t.Helper()
	if e, ok := errors.AsType[*CloseError](err); !ok || e.Code != code || e.by != by {
		t.Errorf("error %v, want code %v", err, code)
	}
}

// serveLoopback serves h on a port of its own until the test ends. It returns the URL.
func serveLoopback(t testing.TB, web *http.Server) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	done := goErr(func() error { return web.Serve(ln) })
	t.Cleanup(func() {
		web.Close()
		if err := wait(t, done); err != http.ErrServerClosed {
			t.Error(err)
		}
	})
	return "ws://" + ln.Addr().String()
}

// A talker is a client with callbacks.
type talker struct {
	*Conn
	opened chan struct{}
	got    chan string
	closed chan error // of OnClose
	served <-chan error
}

func talk(t testing.TB, url string) *talker {
	t.Helper()
	c, err := Dial(t.Context(), url, nil)
	if err != nil {
		t.Fatal(err)
	}
	p := &talker{Conn: c, opened: make(chan struct{}, 1), got: make(chan string, 100), closed: make(chan error, 1)}
	p.served = goErr(func() error {
		return c.Serve(Handler{
			OnOpen:    func(*Conn) { p.opened <- struct{}{} },
			OnMessage: func(_ *Conn, _ MessageType, m []byte) { p.got <- string(m) },
			OnClose:   func(_ *Conn, err error) { p.closed <- err },
		})
	})
	wait(t, p.opened)
	return p
}

func (p *talker) expectTexts(t testing.TB, want ...string) {
	t.Helper()
	for _, want := range want {
		if got := wait(t, p.got); got != want {
			t.Fatalf("got %q, want %q", got, want)
		}
	}
}

// TestServerChat is a chat whose server has HTTP routes beside it: callbacks on both
// sides, broadcasts, an orderly end of clients and of the server.
func TestServerChat(t *testing.T) {
	var mu sync.Mutex
	names := make(map[*Conn]string)
	joined := 0
	paths := make(chan string, 3)
	ends := make(chan error, 3)
	handled := make(chan struct{}, 3)
	s := new(Server)
	s.OnOpen = func(c *Conn) {
		mu.Lock()
		joined++
		name := fmt.Sprintf("user_%d", joined)
		names[c] = name
		mu.Unlock()
		paths <- c.Request().Path
		c.WriteMessage(Text, []byte("welcome "+name))
		s.Broadcast(Text, []byte(name+" joined"), c)
	}
	s.OnMessage = func(c *Conn, typ MessageType, p []byte) {
		mu.Lock()
		name := names[c]
		mu.Unlock()
		c.WriteMessage(typ, fmt.Appendf(nil, "echo: %s", p))
		s.Broadcast(typ, fmt.Appendf(nil, "%s: %s", name, p), c)
		handled <- struct{}{}
	}
	s.OnClose = func(c *Conn, err error) {
		mu.Lock()
		name := names[c]
		delete(names, c)
		mu.Unlock()
		s.Broadcast(Text, []byte(name+" left"))
		ends <- err
	}
	mux := http.NewServeMux()
	mux.Handle("/chat", s)
	mux.HandleFunc("GET /ping", func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "pong") })
	mux.HandleFunc("GET /clients", func(w http.ResponseWriter, _ *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		fmt.Fprint(w, len(names))
	})

	// The server runs in a goroutine until it is told to stop.
	started, stop, finished := make(chan string), make(chan struct{}), make(chan error, 1)
	go func() {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Error(err)
			close(started)
			return
		}
		web := &http.Server{Handler: mux}
		served := goErr(func() error { return web.Serve(ln) })
		started <- ln.Addr().String()
		<-stop
		err = errors.Join(web.Shutdown(t.Context()), s.Shutdown(t.Context()))
		if e := <-served; e != http.ErrServerClosed {
			err = errors.Join(err, e)
		}
		finished <- err
	}()
	addr := wait(t, started)
	stopped := sync.OnceFunc(func() { close(stop) })
	defer stopped()

	web := &http.Client{Transport: new(http.Transport)}
	defer web.CloseIdleConnections()
	get := func(path, want string) {
		t.Helper()
		resp, err := web.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		if body, err := io.ReadAll(resp.Body); err != nil || string(body) != want {
			t.Errorf("GET %s: %q, %v, want %q", path, body, err, want)
		}
	}

	get("/clients", "0")
	alice := talk(t, "ws://"+addr+"/chat")
	alice.expectTexts(t, "welcome user_1")
	if err := alice.WriteMessage(Text, []byte("hello server!")); err != nil {
		t.Fatal(err)
	}
	alice.expectTexts(t, "echo: hello server!")
	wait(t, handled) // or else bob might come in time for the broadcast
	bob := talk(t, "ws://"+addr+"/chat?room=2")
	bob.expectTexts(t, "welcome user_2")
	alice.expectTexts(t, "user_2 joined")
	bob.WriteMessage(Text, []byte("hi everyone!"))
	bob.expectTexts(t, "echo: hi everyone!")
	alice.expectTexts(t, "user_2: hi everyone!")
	get("/ping", "pong")
	get("/clients", "2")
	for _, want := range []string{"/chat", "/chat?room=2"} {
		if got := wait(t, paths); got != want {
			t.Errorf("OnOpen found the path %q, want %q", got, want)
		}
	}

	if err := alice.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	err := wait(t, alice.closed)
	checkCode(t, err, CloseNormal, byUs)
	if got := wait(t, alice.served); got != err {
		t.Errorf("Serve returned %v, OnClose got %v", got, err)
	}
	err = wait(t, ends)
	checkCode(t, err, CloseNormal, byPeer)
	if !errors.Is(err, io.EOF) {
		t.Errorf("%v is no orderly end", err)
	}
	bob.expectTexts(t, "user_1 left")
	get("/clients", "1")

	stopped()
	if err := wait(t, finished); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	checkCode(t, wait(t, bob.closed), CloseGoingAway, byPeer)
	checkCode(t, wait(t, ends), CloseGoingAway, byUs)
	wait(t, bob.served)
	if len(alice.got)+len(bob.got)+len(ends)+len(alice.closed)+len(bob.closed) > 0 {
		t.Error("more messages or ends than there should be")
	}
	if c, err := Dial(t.Context(), "ws://"+addr+"/chat", nil); err == nil {
		t.Error("the server is still there")
		c.CloseNow()
	}
}

// TestServerSlowClient broadcasts to many clients of which one does not read. The others
// get all, and the slow one costs no more than its queue.
func TestServerSlowClient(t *testing.T) {
	const clients, size = 100, 16 << 10
	messages := 1000
	if testing.Short() || raceEnabled {
		messages = 300
	}
	opened := make(chan *Conn, clients)
	type end struct {
		c   *Conn
		err error
	}
	ends := make(chan end, clients)
	s := &Server{Handler: Handler{
		OnOpen:  func(c *Conn) { opened <- c },
		OnClose: func(c *Conn, err error) { ends <- end{c, err} },
	}, Options: Options{CloseTimeout: 500 * time.Millisecond}}
	url := serveLoopback(t, &http.Server{Handler: s})

	slow, err := net.Dial("tcp", strings.TrimPrefix(url, "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	slow.(*net.TCPConn).SetReadBuffer(4 << 10)
	io.WriteString(slow, strings.Replace(rfcHead, "Origin: http://example.com\r\n", "", 1))
	slowConn := wait(t, opened)
	slowConn.rw.(*net.TCPConn).SetWriteBuffer(64 << 10) // or else it may take most of the messages

	payload := func(p []byte, n int) []byte {
		binary.BigEndian.PutUint64(p, uint64(n))
		binary.BigEndian.PutUint64(p[size-8:], uint64(n))
		return p
	}
	pattern := bytes.Repeat([]byte("0123456789abcdef"), size/16)
	read := make([]sync.WaitGroup, messages) // the fast ones that have not read it
	for i := range read {
		read[i].Add(clients - 1)
	}
	var group sync.WaitGroup
	for range clients - 1 {
		c, err := Dial(t.Context(), url, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		wait(t, opened)
		group.Go(func() {
			var buf []byte
			want := bytes.Clone(pattern)
			for n := range messages {
				_, p, err := c.AppendMessage(buf[:0])
				if err != nil || !bytes.Equal(p, payload(want, n)) {
					t.Errorf("message %d: %d bytes, %v", n, len(p), err)
					for ; n < messages; n++ {
						read[n].Done()
					}
					return
				}
				buf = p
				read[n].Done()
			}
			if _, _, err := c.ReadMessage(); err == nil {
				t.Error("one message too many")
			} else {
				checkCode(t, err, CloseGoingAway, byPeer)
			}
		})
	}

	heap := func() uint64 {
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return m.HeapAlloc
	}
	runtime.GC()
	before, most, queued := heap(), uint64(0), 0
	p := bytes.Clone(pattern)
	for n := range messages {
		if n >= 20 {
			read[n-20].Wait()
		}
		if err := s.Broadcast(Binary, payload(p, n)); err != nil {
			t.Fatal(err)
		}
		slowConn.mu.Lock()
		waiting := slowConn.sending
		if slowConn.out != nil {
			waiting += len(slowConn.out.b)
		}
		slowConn.mu.Unlock()
		queued = max(queued, waiting)
		if n%100 == 0 {
			most = max(most, heap())
		}
	}
	for i := range read {
		read[i].Wait()
	}
	e := wait(t, ends)
	if e.c != slowConn {
		t.Error("another connection than the slow one was closed")
	}
	checkCode(t, e.err, ClosePolicyViolation, byUs)
	if n := len(slices.Collect(s.Conns())); n != clients-1 || len(ends) > 0 {
		t.Errorf("%d connections are open, want %d", n, clients-1)
	}
	if queued > maxQueue+1<<10 || queued < maxQueue/2 {
		t.Errorf("%d bytes were queued for the slow client, want up to %d", queued, maxQueue)
	}
	// All that the clients have got is 1.6 GB. The bound is a little more than twice what
	// the queues may hold, as the garbage of one cycle counts, too.
	if grown := int64(most) - int64(before); grown > 256<<20 {
		t.Errorf("the heap has grown by %d MiB", grown>>20)
	}
	if err := s.Shutdown(t.Context()); err != nil {
		t.Error(err)
	}
	group.Wait()
}

// TestShutdownUnderLoad shuts down a server whose clients send as fast as they can. They
// get every reply that WriteMessage has accepted, and then the close frame.
func TestShutdownUnderLoad(t *testing.T) {
	const clients = 20
	var accepted, closed [clients]atomic.Int64
	index := func(c *Conn) (n int) {
		fmt.Sscanf(c.Request().Path, "/%d", &n)
		return n
	}
	s := new(Server)
	s.OnMessage = func(c *Conn, typ MessageType, p []byte) {
		if c.WriteMessage(typ, p) == nil {
			accepted[index(c)].Add(1)
		}
	}
	s.OnClose = func(c *Conn, err error) {
		checkCode(t, err, CloseGoingAway, byUs)
		closed[index(c)].Add(1)
	}
	url := serveLoopback(t, &http.Server{Handler: s})
	var got [clients]int64
	var readers, writers, busy sync.WaitGroup
	busy.Add(clients)
	start := make(chan struct{})
	for i := range clients {
		c, err := Dial(t.Context(), fmt.Sprintf("%s/%d", url, i), nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		writers.Go(func() {
			<-start
			p := make([]byte, 200+10*i)
			for n := uint64(0); ; n++ {
				binary.BigEndian.PutUint64(p, n)
				if c.WriteMessage(Binary, p) != nil {
					return
				}
			}
		})
		readers.Go(func() {
			ready := sync.OnceFunc(busy.Done)
			defer ready()
			for {
				_, p, err := c.ReadMessage()
				if err != nil {
					checkCode(t, err, CloseGoingAway, byPeer)
					return
				}
				if n := binary.BigEndian.Uint64(p); n != uint64(got[i]) || len(p) != 200+10*i {
					t.Errorf("reply %d of %d bytes came at place %d", n, len(p), got[i])
					return
				}
				if got[i]++; got[i] == 50 {
					ready()
				}
			}
		})
	}
	close(start) // not before, or else the load would keep clients from coming in
	busy.Wait()
	if err := s.Shutdown(t.Context()); err != nil {
		t.Fatal(err)
	}
	for i := range clients {
		if n := closed[i].Load(); n != 1 {
			t.Errorf("OnClose was called %d times", n)
		}
	}
	if n := len(slices.Collect(s.Conns())); n > 0 {
		t.Errorf("%d connections are left", n)
	}
	readers.Wait()
	writers.Wait()
	for i := range clients {
		if n := accepted[i].Load(); n != got[i] {
			t.Errorf("client %d has got %d of %d replies", i, got[i], n)
		}
	}
}

// TestShutdown tries the ways in which Shutdown ends.
func TestShutdown(t *testing.T) {
	inBubble := func(name string, f func(t *testing.T, s *Server, p *pipedServer, ends chan error)) {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends := make(chan error, 10)
				s := &Server{Handler: Handler{OnClose: func(_ *Conn, err error) { ends <- err }}}
				f(t, s, servePiped(t, s), ends)
			})
		})
	}
	refused := func(t *testing.T, p *pipedServer) {
		t.Helper()
		_, err := ClientHandshake(p.connect(t), "ws://server.example.com/", nil)
		if e, ok := errors.AsType[*HandshakeError](err); !ok || e.Status != http.StatusServiceUnavailable {
			t.Errorf("a new client got %v, want 503", err)
		}
	}
	inBubble("nothing active", func(t *testing.T, s *Server, p *pipedServer, _ chan error) {
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range 2 {
			if err := s.Shutdown(ctx); err != nil {
				t.Error(err)
			}
		}
		refused(t, p)
	})
	inBubble("orderly", func(t *testing.T, s *Server, p *pipedServer, ends chan error) {
		a, b := p.join(t, "/", nil), p.join(t, "/", nil)
		hixie, _ := p.joinHixie(t)
		var seen sync.WaitGroup
		seen.Go(func() { expectClose(t, a, CloseGoingAway) })
		seen.Go(func() { expectClose(t, b, CloseGoingAway) })
		seen.Go(func() { expectClose(t, hixie, CloseNoStatus) })
		defer seen.Wait()
		for range 3 { // at once, and again
			var group sync.WaitGroup
			for range 3 {
				group.Go(func() {
					if err := s.Shutdown(t.Context()); err != nil {
						t.Error(err)
					}
					if len(ends) != 3 {
						t.Errorf("Shutdown returned after %d of 3 ends", len(ends))
					}
				})
			}
			group.Wait()
			refused(t, p)
		}
		for range 3 {
			checkCode(t, wait(t, ends), CloseGoingAway, byUs)
		}
	})
	inBubble("no answer", func(t *testing.T, s *Server, p *pipedServer, ends chan error) {
		p.join(t, "/", nil) // nobody reads from it
		start := time.Now()
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if d := time.Since(start); d != closeTimeout {
			t.Errorf("Shutdown took %v, want %v", d, closeTimeout)
		}
		checkCode(t, wait(t, ends), CloseGoingAway, byUs)
	})
	for _, d := range []time.Duration{0, time.Second} {
		inBubble(fmt.Sprint("no answer within ", d), func(t *testing.T, s *Server, p *pipedServer, ends chan error) {
			c := p.join(t, "/", nil)
			synctest.Wait() // until the server knows that the client has the response
			ctx, cancel := context.WithTimeout(t.Context(), d)
			defer cancel()
			start := time.Now()
			if err := s.Shutdown(ctx); err != context.DeadlineExceeded {
				t.Errorf("Shutdown returned %v", err)
			}
			synctest.Wait()
			if got := time.Since(start); got != d {
				t.Errorf("Shutdown took %v, want %v", got, d)
			}
			// The transport is closed, so that nothing has to wait any more.
			if len(ends) != 1 {
				t.Fatal("OnClose was not called")
			}
			checkCode(t, <-ends, CloseGoingAway, byUs)
			if _, _, err := c.ReadMessage(); err == nil {
				t.Error("the transport is open")
			}
			if err := s.Shutdown(t.Context()); err != nil || time.Since(start) != d {
				t.Errorf("Shutdown returned %v after %v", err, time.Since(start))
			}
			refused(t, p)
		})
	}
	inBubble("callback that takes long", func(t *testing.T, s *Server, p *pipedServer, ends chan error) {
		called := make(chan bool)
		s.OnMessage = func(c *Conn, typ MessageType, m []byte) {
			close(called)
			time.Sleep(time.Second)
			if err := c.WriteMessage(typ, m); !errors.Is(err, net.ErrClosed) {
				t.Errorf("WriteMessage after Shutdown: %v", err)
			}
		}
		c := p.join(t, "/", nil)
		c.WriteMessage(Text, []byte("a"))
		var seen sync.WaitGroup
		seen.Go(func() { expectClose(t, c, CloseGoingAway) })
		defer seen.Wait()
		wait(t, called)
		start := time.Now()
		if err := s.Shutdown(t.Context()); err != nil || time.Since(start) != time.Second {
			t.Errorf("Shutdown returned %v after %v", err, time.Since(start))
		}
		checkCode(t, wait(t, ends), CloseGoingAway, byUs)
	})
	inBubble("while a client comes in", func(t *testing.T, s *Server, p *pipedServer, ends chan error) {
		conn := p.connect(t)
		io.WriteString(conn, hixieHead) // the token is still to come
		synctest.Wait()
		done := goErr(func() error { return s.Shutdown(t.Context()) })
		synctest.Wait()
		if len(done) > 0 {
			t.Error("Shutdown has not waited for the handshake")
		}
		io.WriteString(conn, hixieToken)
		resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
		if err != nil || resp.StatusCode != http.StatusSwitchingProtocols {
			t.Fatalf("response %v, %v", resp, err)
		}
		go io.Copy(io.Discard, conn)
		if err := wait(t, done); err != nil {
			t.Error(err)
		}
		checkCode(t, wait(t, ends), CloseGoingAway, byUs)
	})
	inBubble("RegisterOnShutdown", func(t *testing.T, s *Server, p *pipedServer, ends chan error) {
		done := make(chan error, 1)
		p.RegisterOnShutdown(func() { done <- s.Shutdown(context.Background()) })
		c := p.join(t, "/", nil)
		var seen sync.WaitGroup
		seen.Go(func() { expectClose(t, c, CloseGoingAway) })
		defer seen.Wait()
		if err := p.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		if err := wait(t, done); err != nil {
			t.Error(err)
		}
		checkCode(t, wait(t, ends), CloseGoingAway, byUs)
	})
}

// A cutConn fails for ever after some bytes in either direction.
type cutConn struct {
	net.Conn
	err           error // of Read
	mu            sync.Mutex
	reads, writes int // bytes that pass
	cut           bool
}

// left returns how many of n bytes still pass in a direction.
func (c *cutConn) left(way *int, n int) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = c.cut || n > 0 && *way == 0
	return min(n, *way)
}

func (c *cutConn) pass(way *int, n int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	*way -= n
}

func (c *cutConn) Read(p []byte) (int, error) {
	n := c.left(&c.reads, len(p))
	if n == 0 {
		return 0, c.err
	}
	n, err := c.Conn.Read(p[:n])
	c.pass(&c.reads, n)
	return n, err
}

func (c *cutConn) Write(p []byte) (int, error) {
	n := c.left(&c.writes, len(p))
	var err error
	if n > 0 {
		n, err = c.Conn.Write(p[:n])
		c.pass(&c.writes, n)
	}
	if n < len(p) && err == nil {
		c.left(&c.writes, 1) // notes the failure
		err = errBroken
	}
	return n, err
}

func (c *cutConn) wasCut() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut
}

// A tally counts the calls of a Handler and checks their order.
type tally struct {
	mu           sync.Mutex
	opens, calls int
	ends         []error
}

func (y *tally) handler(t testing.TB) Handler {
	return Handler{
		OnOpen: func(c *Conn) {
			y.mu.Lock()
			defer y.mu.Unlock()
			if y.opens++; y.calls+len(y.ends) > 0 {
				t.Error("OnOpen is not called first")
			}
			c.WriteMessage(Text, []byte("welcome"))
		},
		OnMessage: func(c *Conn, typ MessageType, p []byte) {
			y.mu.Lock()
			defer y.mu.Unlock()
			if y.calls++; y.opens == 0 || len(y.ends) > 0 {
				t.Error("OnMessage is called before OnOpen or after OnClose")
			}
			c.WriteMessage(typ, p)
		},
		OnClose: func(c *Conn, err error) {
			y.mu.Lock()
			defer y.mu.Unlock()
			if y.ends = append(y.ends, err); err == nil {
				t.Error("OnClose without an error")
			}
		},
	}
}

// TestServerCut cuts the transport of a connection after every number of bytes. OnClose
// is called once if OnOpen was, and nothing is left behind.
func TestServerCut(t *testing.T) {
	for _, fault := range []string{"read", "EOF", "write"} {
		for _, version := range handshakes {
			t.Run(fault+"/"+version.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var cut *cutConn
					var y tally
					s := &Server{Options: Options{Origins: []string{"*"}}}
					s.Handler = Handler{
						OnOpen:    func(c *Conn) { y.handler(t).OnOpen(c) },
						OnMessage: func(c *Conn, typ MessageType, p []byte) { y.handler(t).OnMessage(c, typ, p) },
						OnClose:   func(c *Conn, err error) { y.handler(t).OnClose(c, err) },
					}
					p := servePiped(t, s)
					p.wrap = func(c net.Conn) net.Conn { cut.Conn = c; return cut }
					in := version.hello + version.frames[0] + version.frames[1]
					probe := newConn(nil, nil, false)
					probe.dec.hixie = version.version == Hixie76
					in += string(toward(probe, opClose, closing(CloseNormal, "")))
					opens := 0
					for n := 0; ; n++ {
						if n > 10000 {
							t.Fatal("there is no end")
						}
						y = tally{}
						cut = &cutConn{reads: 1 << 20, writes: 1 << 20, err: errBroken}
						switch fault {
						case "write":
							cut.writes = n
						case "EOF":
							cut.err = io.EOF
							fallthrough
						case "read":
							cut.reads = n
						}
						conn := p.connect(t)
						go io.WriteString(conn, in)
						io.Copy(io.Discard, conn) // until the server closes it
						conn.Close()
						synctest.Wait()
						if s.active != 0 || len(s.conns) != 0 {
							t.Fatalf("after %d bytes: %d connections are active", n, s.active)
						}
						if y.opens > 1 || len(y.ends) != y.opens {
							t.Fatalf("after %d bytes: %d calls of OnOpen, %d of OnClose", n, y.opens, len(y.ends))
						}
						opens += y.opens
						if cut.wasCut() {
							continue
						}
						if y.opens != 1 || y.calls != 2 || opens < 20 || n-opens < 100 {
							t.Errorf("after %d bytes: %d opened, %d messages", n, opens, y.calls)
						}
						if e, ok := errors.AsType[*CloseError](y.ends[0]); !ok || e.by != byPeer {
							t.Errorf("at last: %v", y.ends)
						}
						break
					}
				})
			})
		}
	}
}

// TestServeCut is TestServerCut for a client with callbacks.
func TestServeCut(t *testing.T) {
	for _, fault := range []string{"read", "EOF", "write"} {
		t.Run(fault, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				// The client sends what tally does, and the server closes at the second
				// message.
				s := new(Server)
				s.OnMessage = func(c *Conn, typ MessageType, p []byte) {
					if string(p) == "welcome" {
						c.WriteMessage(typ, []byte("hello"))
					} else {
						c.Close()
					}
				}
				p := servePiped(t, s)
				for n := 0; ; n++ {
					if n > 10000 {
						t.Fatal("there is no end")
					}
					cut := &cutConn{Conn: p.connect(t), reads: 1 << 20, writes: 1 << 20, err: errBroken}
					switch fault {
					case "write":
						cut.writes = n
					case "EOF":
						cut.err = io.EOF
						fallthrough
					case "read":
						cut.reads = n
					}
					var y tally
					c, err := ClientHandshake(cut, "ws://server.example.com/", nil)
					if err == nil {
						err = c.Serve(y.handler(t))
						if y.opens != 1 || len(y.ends) != 1 || y.ends[0] != err {
							t.Fatalf("after %d bytes: %d calls of OnOpen, Serve returned %v, OnClose got %v", n, y.opens, err, y.ends)
						}
					}
					cut.Close()
					synctest.Wait()
					if !cut.wasCut() {
						if n < 100 || y.calls != 1 {
							t.Errorf("after %d bytes: %d messages", n, y.calls)
						}
						checkCode(t, err, CloseNormal, byPeer)
						break
					}
				}
			})
		})
	}
}

// TestServerPanic lets callbacks panic or end their goroutine. The connection is closed,
// the others go on.
func TestServerPanic(t *testing.T) {
	hows := []struct {
		name string
		fail func()
		log  string // or nothing
	}{
		{"value", func() { panic("out of tea") }, "out of tea"},
		{"error", func() { panic(errBroken) }, "broken"},
		{"nil dereference", func() { var p *int; *p = 1 }, "nil pointer"},
		{"ErrAbortHandler", func() { panic(http.ErrAbortHandler) }, ""},
		{"Goexit", runtime.Goexit, ""},
	}
	wheres := []struct {
		name  string
		at    []string
		code  CloseCode // that the peer sees
		by    closedBy  // of the error of OnClose
		calls string
	}{
		{"OnOpen", []string{"open"}, CloseInternalError, byUs, "open close"},
		{"OnMessage", []string{"message"}, CloseInternalError, byUs, "open message close"},
		// The peer has closed, so there is nobody to tell.
		{"OnClose", []string{"close"}, CloseNormal, byPeer, "open message close"},
		{"OnMessage and OnClose", []string{"message", "close"}, CloseInternalError, byUs, "open message close"},
		{"OnOpen and OnClose", []string{"open", "close"}, CloseInternalError, byUs, "open close"},
	}
	for _, how := range hows {
		for _, where := range wheres {
			t.Run(where.name+"/"+how.name, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					var calls []string
					var end error
					call := func(c *Conn, name string) {
						if c.Request().Path == "/victim" {
							calls = append(calls, name)
							if slices.Contains(where.at, name) {
								how.fail()
							}
						}
					}
					s := &Server{Handler: Handler{
						OnOpen:    func(c *Conn) { call(c, "open") },
						OnMessage: func(c *Conn, typ MessageType, p []byte) { c.WriteMessage(typ, p); call(c, "message") },
						OnClose: func(c *Conn, err error) {
							if c.Request().Path == "/victim" {
								end = err
							}
							call(c, "close")
						},
					}}
					p := servePiped(t, s)
					other := p.join(t, "/", nil)
					victim := p.join(t, "/victim", nil)
					if where.at[0] != "open" {
						go victim.WriteMessage(Text, []byte("a"))
						expectMessages(t, victim, "a")
					}
					if where.name == "OnClose" {
						if err := victim.Close(); err != nil {
							t.Error(err)
						}
						expectClose(t, victim, where.code)
					} else {
						expectClose(t, victim, where.code)
						victim.Close()
					}
					synctest.Wait()
					if got := strings.Join(calls, " "); got != where.calls {
						t.Errorf("calls: %s, want %s", got, where.calls)
					}
					checkCode(t, end, where.code, where.by)
					if s.active != 1 {
						t.Errorf("%d connections are active, want 1", s.active)
					}
					go other.WriteMessage(Text, []byte("b"))
					expectMessages(t, other, "b")
					out := p.log.String()
					if how.log == "" && out != "" || !strings.Contains(out, how.log) ||
						how.log != "" && (!strings.Contains(out, "server_test.go") || !strings.Contains(out, "websocket: panic serving")) {
						t.Errorf("log: %q, want one of %q with a stack", out, how.log)
					}
				})
			})
		}
	}
}

// TestServePanic lets callbacks of Conn.Serve panic. The panic goes on to the caller.
func TestServePanic(t *testing.T) {
	for _, at := range []string{"open", "message", "close"} {
		for _, exit := range []bool{false, true} {
			for _, client := range []bool{false, true} {
				t.Run(fmt.Sprintf("%s/exit=%t/client=%t", at, exit, client), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) {
						c, peer := pipe(t, nil)
						if client {
							c, peer = peer, c
						}
						var calls []string
						var end error
						call := func(name string) {
							calls = append(calls, name)
							switch {
							case name != at:
							case exit:
								runtime.Goexit()
							default:
								panic("out of tea")
							}
						}
						done := make(chan any, 1)
						go func() {
							returned := false
							defer func() {
								if v := recover(); v != nil || !returned {
									done <- v
								}
							}()
							err := c.Serve(Handler{
								OnOpen:    func(*Conn) { call("open") },
								OnMessage: func(*Conn, MessageType, []byte) { call("message") },
								OnClose:   func(_ *Conn, err error) { end = err; call("close") },
							})
							returned = true
							done <- err
						}()
						code, want := CloseInternalError, "open message close"
						switch at {
						case "open":
							want = "open close"
						case "message":
							go peer.WriteMessage(Text, nil)
						case "close":
							want = "open close"
							code = CloseNormal
							go peer.Close()
						}
						seen := goErr(func() error { expectClose(t, peer, code); return nil })
						v := wait(t, done)
						if exit && v != nil || !exit && v != "out of tea" {
							t.Errorf("Serve ended with %v", v)
						}
						if got := strings.Join(calls, " "); got != want {
							t.Errorf("calls: %s, want %s", got, want)
						}
						if e, ok := errors.AsType[*CloseError](end); !ok || e.Code != code {
							t.Errorf("OnClose got %v, want %v", end, code)
						}
						// The transport does not stay open even if nobody calls Close.
						if exit {
							time.Sleep(2 * closeTimeout)
						} else if err := c.Close(); err != nil {
							t.Errorf("Close: %v", err)
						}
						wait(t, seen)
						synctest.Wait()
						if !c.shutdown {
							t.Error("the transport is open")
						}
					})
				})
			}
		}
	}
}

// TestBroadcastOrder checks where broadcasts come among the messages of one connection.
func TestBroadcastOrder(t *testing.T) {
	large := strings.Repeat("x", 100<<10)
	for _, hixie := range []bool{false, true} {
		for _, tt := range []struct {
			name string
			// open is OnOpen, and then act is called in another goroutine.
			open, act func(s *Server, c *Conn)
			want      []string
		}{
			{"after WriteMessage", nil, func(s *Server, c *Conn) {
				for i := range 20 {
					c.WriteMessage(Text, fmt.Append(nil, 2*i))
					s.Broadcast(Text, fmt.Append(nil, 2*i+1))
				}
				c.WriteMessage(Text, []byte(large))
				s.Broadcast(Text, []byte("between"))
				c.WriteMessage(Text, []byte(large))
				s.Broadcast(Text, []byte("last"))
			}, append(strings.Fields("0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26 27 28 29 "+
				"30 31 32 33 34 35 36 37 38 39"), large, "between", large, "last")},
			{"while OnOpen runs", func(s *Server, c *Conn) {
				s.Broadcast(Text, []byte("b1"))
				c.WriteMessage(Text, []byte("welcome"))
				s.Broadcast(Text, []byte("b2"))
				c.WriteMessage(Text, []byte(large))
				w, _ := c.NextWriter(Text)
				io.WriteString(w, "a stream")
				s.Broadcast(Text, []byte("b3"))
				w.Close()
				c.WriteMessage(Text, []byte("that was it"))
			}, func(s *Server, c *Conn) {
				s.Broadcast(Text, []byte("b4"))
			}, []string{"welcome", large, "a stream", "that was it", "b1", "b2", "b3", "b4"}},
			{"while a message is open", nil, func(s *Server, c *Conn) {
				w, _ := c.NextWriter(Text)
				s.Broadcast(Text, []byte("b1"))
				io.WriteString(w, "he")
				s.Broadcast(Text, []byte("b2"))
				io.WriteString(w, "llo")
				done := goErr(func() error { return c.WriteMessage(Text, []byte("after")) })
				synctest.Wait()
				s.Broadcast(Text, []byte("b3"))
				io.WriteString(w, large)
				w.Close()
				wait(t, done)
				s.Broadcast(Text, []byte("b4"))
			}, []string{"hello" + large, "b1", "b2", "b3", "after", "b4"}},
			{"with a message left open by OnOpen", func(s *Server, c *Conn) {
				w, _ := c.NextWriter(Text)
				s.Broadcast(Text, []byte("b1"))
				go func() {
					time.Sleep(time.Second)
					s.Broadcast(Text, []byte("b2"))
					io.WriteString(w, "hello")
					w.Close()
				}()
			}, func(s *Server, c *Conn) {
				c.WriteMessage(Text, []byte("after"))
			}, []string{"hello", "b1", "b2", "after"}},
		} {
			t.Run(fmt.Sprintf("%s/hixie=%t", tt.name, hixie), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					opened := make(chan *Conn, 1)
					s := new(Server)
					s.OnOpen = func(c *Conn) {
						opened <- c
						if tt.open != nil {
							tt.open(s, c)
						}
					}
					p := servePiped(t, s)
					var client *Conn
					if hixie {
						// It reads while the handshake returns, as OnOpen waits for that.
						client, _ = p.joinHixie(t)
					} else {
						client = p.join(t, "/", nil)
					}
					go func() {
						c := wait(t, opened)
						synctest.Wait() // OnOpen waits for the reader, or has returned
						tt.act(s, c)
					}()
					expectMessages(t, client, tt.want...)
				})
			})
		}
	}
}

// All clients get the broadcasts of several goroutines in the same order.
func TestBroadcastTotalOrder(t *testing.T) {
	const clients, senders, each = 5, 4, 100
	var opened sync.WaitGroup
	opened.Add(clients)
	s := &Server{Handler: Handler{OnOpen: func(*Conn) { opened.Done() }}}
	url := serveLoopback(t, &http.Server{Handler: s})
	var got [clients][]string
	var readers, writers sync.WaitGroup
	for i := range clients {
		c, err := Dial(t.Context(), url, nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		readers.Go(func() {
			for {
				_, p, err := c.ReadMessage()
				if err != nil {
					checkCode(t, err, CloseGoingAway, byPeer)
					return
				}
				got[i] = append(got[i], string(p))
			}
		})
	}
	opened.Wait()
	for i := range senders {
		writers.Go(func() {
			for n := range each {
				if err := s.Broadcast(Text, fmt.Appendf(nil, "%d %d", i, n)); err != nil {
					t.Error(err)
				}
			}
		})
	}
	writers.Wait()
	s.Shutdown(t.Context())
	readers.Wait()
	for i := range clients {
		if len(got[i]) != senders*each || !slices.Equal(got[i], got[0]) {
			t.Errorf("client %d has got %d messages, in another order than client 0 with %d", i, len(got[i]), len(got[0]))
		}
	}
	var next [senders]int
	for _, m := range got[0] {
		var i, n int
		if fmt.Sscan(m, &i, &n); n != next[i] {
			t.Errorf("message %d of sender %d came instead of %d", n, i, next[i])
		}
		next[i]++
	}
}

// A firstByteConn calls f when it has read one byte.
type firstByteConn struct {
	net.Conn
	f func()
}

func (c *firstByteConn) Read(p []byte) (int, error) {
	if c.f == nil {
		return c.Conn.Read(p)
	}
	n, err := c.Conn.Read(p[:1])
	c.f()
	c.f = nil
	return n, err
}

// TestServerKnows checks that a client is known to the server before it can know that it is
// accepted, so that it misses nothing.
func TestServerKnows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s := &Server{Handler: Handler{OnOpen: func(c *Conn) { c.WriteMessage(Text, []byte("welcome")) }}}
		p := servePiped(t, s)
		join := func(f func()) *Conn {
			c, err := ClientHandshake(&firstByteConn{p.connect(t), f}, "ws://server.example.com/", nil)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.CloseNow() })
			return c
		}
		c := join(func() {
			if n := len(slices.Collect(s.Conns())); n != 1 {
				t.Errorf("the server has %d connections", n)
			}
			s.Broadcast(Text, []byte("news"))
		})
		expectMessages(t, c, "welcome", "news")

		var down <-chan error
		c2 := join(func() {
			down = goErr(func() error { return s.Shutdown(t.Context()) })
			synctest.Wait()
		})
		expectClose(t, c2, CloseGoingAway)
		expectClose(t, c, CloseGoingAway)
		if err := wait(t, down); err != nil {
			t.Error(err)
		}
	})
}

// TestBroadcast checks who gets what.
func TestBroadcast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := make(chan *Conn, 4)
		s := &Server{Handler: Handler{OnOpen: func(c *Conn) { opened <- c }}, Options: Options{MaxQueue: 1000}}
		p := servePiped(t, s)
		var clients, conns [3]*Conn
		for i := range clients {
			clients[i] = p.join(t, "/", nil)
			conns[i] = <-opened
		}
		hixie, raw := p.joinHixie(t)
		conns4 := <-opened
		synctest.Wait()
		if got := slices.Collect(s.Conns()); len(got) != 4 || !slices.Contains(got, conns[0]) || !slices.Contains(got, conns4) {
			t.Errorf("Conns: %v", got)
		}
		for range s.Conns() {
			break // stops
		}

		stranger, _ := pipe(t, nil)
		big := strings.Repeat("x", 1000)
		for _, tt := range []struct {
			typ    MessageType
			p      string
			except []*Conn
			ok     bool
		}{
			{Text, "to all", nil, true},
			{Text, "bad \xff", nil, false},
			{MessageType(opPing), "no type", nil, false},
			{0, "no type", nil, false},
			{Binary, big + "x", nil, false},
			{Text, "not to 0", []*Conn{conns[0]}, true},
			{Text, "not to 0 and 1", []*Conn{conns[1], stranger, conns[0], nil}, true},
			{Binary, "\x00\xff", nil, true},
			{Text, "", nil, true},
			{Text, "the end", nil, true},
		} {
			if err := s.Broadcast(tt.typ, []byte(tt.p), tt.except...); (err == nil) != tt.ok {
				t.Errorf("Broadcast(%v, %.20q): %v", tt.typ, tt.p, err)
			}
		}
		expectMessages(t, clients[0], "to all", "\x00\xff", "", "the end")
		expectMessages(t, clients[1], "to all", "not to 0", "\x00\xff", "", "the end")
		expectMessages(t, clients[2], "to all", "not to 0", "not to 0 and 1", "\x00\xff", "", "the end")
		want := "\x00to all\xff\x00not to 0\xff\x00not to 0 and 1\xff\x00\xff\x00the end\xff"
		got := make([]byte, len(want))
		if _, err := io.ReadFull(raw, got); err != nil || string(got) != want {
			t.Errorf("hixie-76: %q, %v, want %q", got, err, want)
		}
		synctest.Wait() // until nothing of the others is queued
		if err := s.Broadcast(Binary, []byte(big)); err != nil {
			t.Errorf("a broadcast of MaxQueue bytes: %v", err)
		}
		for _, c := range clients {
			expectMessages(t, c, big)
		}
		s.Broadcast(Text, []byte("b"))
		expectMessages(t, hixie, "b") // and not the binary one
		for _, c := range clients {
			expectMessages(t, c, "b")
		}
		go s.Shutdown(t.Context())
		expectClose(t, hixie, CloseNoStatus)
		for _, c := range clients {
			expectClose(t, c, CloseGoingAway)
		}
		if err := s.Broadcast(Text, []byte("to nobody")); err != nil {
			t.Errorf("Broadcast after Shutdown: %v", err)
		}
	})
}

// TestBroadcastQueue fills the queue of a client that does not read, in each of the
// places where broadcasts wait.
func TestBroadcastQueue(t *testing.T) {
	for _, where := range []string{"reading", "OnOpen", "OnMessage", "writer", "own write"} {
		t.Run(where, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				opened, ends := make(chan *Conn, 1), make(chan error, 1)
				hold := make(chan struct{})
				s := &Server{Options: Options{MaxQueue: 1000, PingInterval: -1}}
				s.OnOpen = func(c *Conn) {
					opened <- c
					if where == "OnOpen" {
						<-hold
					}
				}
				s.OnMessage = func(*Conn, MessageType, []byte) { <-hold }
				s.OnClose = func(_ *Conn, err error) { ends <- err }
				p := servePiped(t, s)
				client := p.join(t, "/", nil)
				c := <-opened
				var write <-chan error
				switch where {
				case "OnMessage":
					client.WriteMessage(Text, nil)
				case "writer":
					if _, err := c.NextWriter(Text); err != nil {
						t.Fatal(err)
					}
				case "own write":
					write = goErr(func() error { return c.WriteMessage(Binary, make([]byte, 100<<10)) })
				}
				synctest.Wait()
				start := time.Now()
				for n := range 10 {
					if err := s.Broadcast(Binary, make([]byte, 96)); err != nil { // 98 bytes with its header
						t.Fatal(err)
					}
					if got := len(slices.Collect(s.Conns())); got != 1 {
						t.Fatalf("closed at %d bytes", 98*(n+1))
					}
				}
				s.Broadcast(Binary, make([]byte, 96))
				if len(slices.Collect(s.Conns())) != 0 {
					t.Error("1078 bytes wait, of 1000")
				}
				s.Broadcast(Binary, make([]byte, 96)) // to nobody
				close(hold)
				synctest.Wait()
				if len(ends) != 1 || time.Since(start) != 0 {
					t.Fatal("OnClose waits")
				}
				checkCode(t, <-ends, ClosePolicyViolation, byUs)
				// A client that reads at last gets what was sent, and why it ends.
				if where != "writer" {
					n := 0
					for ; ; n++ {
						_, _, err := client.ReadMessage()
						if err != nil {
							checkCode(t, err, ClosePolicyViolation, byPeer)
							break
						}
					}
					want := map[string]int{"reading": 10, "OnOpen": 0, "OnMessage": 10, "own write": 11}[where]
					if n != want {
						t.Errorf("%d messages came, want %d", n, want)
					}
				}
				time.Sleep(2 * closeTimeout)
				if write != nil {
					if err := wait(t, write); err != nil {
						t.Errorf("WriteMessage: %v", err)
					}
				}
				synctest.Wait()
				if s.active != 0 {
					t.Error("the connection is still there")
				}
			})
		})
	}
}

// A sink is a transport that takes everything and never has input.
type sink struct {
	bytes  *sync.WaitGroup // still to be written
	closed chan struct{}
}

func (s sink) Read([]byte) (int, error) { <-s.closed; return 0, net.ErrClosed }

func (s sink) Write(p []byte) (int, error) {
	s.bytes.Add(-len(p))
	return len(p), nil
}

func (s sink) Close() error { close(s.closed); return nil }

// What Broadcast allocates does not depend on the number of clients.
func TestBroadcastAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	allocations := func(clients int) float64 {
		var bytes sync.WaitGroup
		s := new(Server)
		for range clients {
			c := newConn(sink{&bytes, make(chan struct{})}, nil, false)
			c.beginServe(-1)
			c.opened()
			s.add(c)
			defer c.CloseNow()
		}
		p := []byte(strings.Repeat("x", 200))
		return testing.AllocsPerRun(50, func() {
			bytes.Add(clients * len(appendFrame(nil, finBit|opText, p, false)))
			s.Broadcast(Text, p)
			bytes.Wait()
		})
	}
	few, many := allocations(10), allocations(400)
	if many > few+40 {
		t.Errorf("%v allocations for 10 clients, %v for 400", few, many)
	}
}

// checkStopped checks that the timers of c, whose transport is closed, do not run.
func checkStopped(t testing.TB, c *Conn) {
	t.Helper()
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.shutdown || c.timer != nil && c.timer.Stop() || c.watchdog != nil && c.watchdog.Stop() ||
		c.alive != nil && c.alive.timer.Stop() {
		t.Error("the transport is open, or a timer runs")
	}
}

// TestKeepalive lets time pass on connections whose peers do this and that.
func TestKeepalive(t *testing.T) {
	const interval = 5 * time.Second
	const never = -1
	drain := func(peer net.Conn, size int, every time.Duration) {
		p := make([]byte, size)
		for {
			time.Sleep(every)
			if _, err := io.ReadFull(peer, p); err != nil {
				return
			}
		}
	}
	frame := func(peer net.Conn, client bool, p string) bool {
		_, err := peer.Write(appendFrame(nil, finBit|opText, []byte(p), client))
		return err == nil
	}
	// often sends frames, each of them less than an interval after the last.
	often := func(peer net.Conn, client bool, every time.Duration) {
		for frame(peer, client, "a") {
			time.Sleep(every)
		}
	}
	for _, tt := range []struct {
		name     string
		interval time.Duration
		h        Handler
		// peer acts as the peer; other is called in a goroutine when Serve runs.
		peer      func(peer net.Conn, client bool)
		other     func(c *Conn)
		min, max  time.Duration // when the connection is closed; or never
		callbacks int           // calls of OnMessage that return at least
	}{
		{name: "silent", interval: interval, min: 2 * interval, max: 2 * interval,
			peer: func(peer net.Conn, _ bool) { io.Copy(io.Discard, peer) }},
		{name: "silent, no pings", min: never,
			peer: func(peer net.Conn, _ bool) { io.Copy(io.Discard, peer) }},
		{name: "silent, negative", interval: never, min: never,
			peer: func(peer net.Conn, _ bool) { io.Copy(io.Discard, peer) }},
		// The ping is sent after one interval, and is then what it does not take.
		{name: "reads nothing", interval: interval, min: 4 * interval, max: 5 * interval,
			peer: func(net.Conn, bool) {}},
		{name: "answers pings", interval: interval, min: never,
			peer: func(peer net.Conn, client bool) { newConn(peer, nil, client).ReadMessage() }},
		{name: "answers a ping, then none", interval: interval, min: 3 * interval, max: 4 * interval,
			peer: func(peer net.Conn, client bool) {
				p := make([]byte, 6)
				io.ReadFull(peer, p[:2])
				if !client { // the ping is masked
					io.ReadFull(peer, p[2:])
				}
				peer.Write(appendFrame(nil, finBit|opPong, nil, client))
				io.Copy(io.Discard, peer)
			}},
		{name: "sends, but does not answer", interval: interval, min: never, callbacks: 100,
			peer: func(peer net.Conn, client bool) {
				go io.Copy(io.Discard, peer)
				often(peer, client, interval-time.Second)
			}},
		{name: "sends bytes of one frame", interval: interval, min: never,
			peer: func(peer net.Conn, client bool) {
				go io.Copy(io.Discard, peer)
				for _, b := range appendFrame(nil, finBit|opText, bytes.Repeat([]byte("x"), 4000), client) {
					time.Sleep(interval - time.Second)
					if _, err := peer.Write([]byte{b}); err != nil {
						break
					}
				}
			}},
		{name: "sends, but reads nothing", interval: interval, min: 3 * interval, max: 4 * interval,
			other: func(c *Conn) { c.WriteMessage(Text, []byte("a")) },
			peer:  func(peer net.Conn, client bool) { often(peer, client, time.Second) }},
		{name: "waits for a callback", interval: interval, min: never, callbacks: 2,
			h: Handler{OnMessage: func(*Conn, MessageType, []byte) { time.Sleep(10 * interval) }},
			peer: func(peer net.Conn, client bool) {
				frame(peer, client, "a")
				time.Sleep(9 * interval)
				frame(peer, client, "b")
				newConn(peer, nil, client).ReadMessage()
			}},
		{name: "silent after a callback", interval: interval, min: 11 * interval, max: 13 * interval, callbacks: 1,
			h: Handler{OnMessage: func(*Conn, MessageType, []byte) { time.Sleep(10*interval - time.Second) }},
			peer: func(peer net.Conn, client bool) {
				frame(peer, client, "a")
				io.Copy(io.Discard, peer)
			}},
		{name: "takes nothing of a write of a callback", interval: interval, min: 3 * interval, max: 4 * interval,
			h: Handler{OnOpen: func(c *Conn) { c.WriteMessage(Binary, make([]byte, 1<<20)) }}},
		{name: "takes nothing more of a write", interval: interval, min: 3 * interval, max: 5 * interval,
			h:    Handler{OnOpen: func(c *Conn) { c.WriteMessage(Binary, make([]byte, 10<<20)) }},
			peer: func(peer net.Conn, _ bool) { io.ReadFull(peer, make([]byte, 5<<20)) }},
		{name: "takes small messages slowly", interval: interval, min: never,
			h: Handler{OnOpen: func(c *Conn) {
				for c.WriteMessage(Binary, make([]byte, 100)) == nil {
				}
			}},
			peer: func(peer net.Conn, _ bool) { drain(peer, 100, interval/2) }},
		{name: "takes large messages slowly", interval: interval, min: never,
			h: Handler{OnOpen: func(c *Conn) {
				for c.WriteMessage(Binary, make([]byte, 100<<10)) == nil {
				}
			}},
			peer: func(peer net.Conn, _ bool) { drain(peer, 64<<10, interval-time.Second) }},
		{name: "takes one large message slowly, in a callback", interval: interval, min: never,
			h:    Handler{OnOpen: func(c *Conn) { c.WriteMessage(Binary, make([]byte, 100<<20)) }},
			peer: func(peer net.Conn, _ bool) { drain(peer, writeSize/2, interval-time.Second) }},
		{name: "takes one large message slowly, while Serve reads", interval: interval, min: never,
			other: func(c *Conn) { c.WriteMessage(Binary, make([]byte, 100<<20)) },
			peer:  func(peer net.Conn, _ bool) { drain(peer, writeSize/2, interval-time.Second) }},
	} {
		for _, client := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s/client=%t", tt.name, client), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, peer := barePeer(t, &Options{PingInterval: tt.interval}, client)
					start, end := time.Now(), make(chan error, 1)
					done := make(chan error, 1)
					callbacks := 0
					h := tt.h
					h.OnMessage = func(c *Conn, typ MessageType, p []byte) {
						if tt.h.OnMessage != nil {
							tt.h.OnMessage(c, typ, p)
						}
						callbacks++
					}
					h.OnClose = func(_ *Conn, err error) { end <- err }
					go func() { done <- c.Serve(h) }()
					stopped := make(chan struct{})
					go func() {
						defer close(stopped)
						if tt.peer != nil {
							tt.peer(peer, !client)
						}
					}()
					if tt.other != nil {
						go tt.other(c)
					}
					if tt.min == never {
						time.Sleep(200 * interval)
						if len(end) > 0 {
							t.Fatalf("closed: %v", <-end)
						}
						c.CloseNow()
					}
					err := <-end
					d := time.Since(start)
					if got := <-done; got != err {
						t.Errorf("Serve returned %v, OnClose got %v", got, err)
					}
					if tt.min != never && (d < tt.min || d > tt.max || !errors.Is(err, os.ErrDeadlineExceeded)) {
						t.Errorf("closed after %v, want %v to %v, with %v", d, tt.min, tt.max, err)
					}
					if callbacks < tt.callbacks {
						t.Errorf("%d calls of OnMessage, want %d", callbacks, tt.callbacks)
					}
					synctest.Wait()
					checkStopped(t, c)
					peer.Close()
					<-stopped
				})
			})
		}
	}
}

// TestServerKeepalive checks what a Server does about silent clients if it is told nothing
// else, and that those of hixie-76 are not pinged.
func TestServerKeepalive(t *testing.T) {
	for _, tt := range []struct {
		interval, want time.Duration
	}{{0, 2 * pingInterval}, {time.Second, 2 * time.Second}, {-1, -1}} {
		t.Run(fmt.Sprint(tt.interval), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				ends := make(chan error, 2)
				s := &Server{Handler: Handler{OnClose: func(_ *Conn, err error) { ends <- err }},
					Options: Options{PingInterval: tt.interval}}
				p := servePiped(t, s)
				_, hixie := p.joinHixie(t)
				silent := p.connect(t)
				go io.WriteString(silent, strings.Replace(rfcHead, "Origin: http://example.com\r\n", "", 1))
				go io.Copy(io.Discard, silent)
				got := make(chan []byte)
				go func() {
					b, _ := io.ReadAll(hixie)
					got <- b
				}()
				start := time.Now()
				if tt.want > 0 {
					if err := <-ends; !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != tt.want {
						t.Errorf("closed with %v after %v, want %v", err, time.Since(start), tt.want)
					}
				}
				time.Sleep(time.Hour)
				want := 1
				if tt.want < 0 {
					want = 2
				}
				if n := len(slices.Collect(s.Conns())); n != want || len(ends) > 0 {
					t.Errorf("%d connections are open, want %d", n, want)
				}
				hixie.Close()
				if b := <-got; len(b) > 0 {
					t.Errorf("the client of hixie-76 has got %q", b)
				}
				<-ends
			})
		})
	}
}

// The payload that OnMessage gets can be appended to and stays as it is during the call,
// whatever else happens.
func TestServePayload(t *testing.T) {
	for _, pair := range pairs {
		t.Run(pair.name, func(t *testing.T) {
			server, client := pair.open(t, nil)
			var all []string
			var in []byte
			for i, size := range []int{1, 0, 125, 126, 3000, 5000, 20_000, 40_000, 70_000, 1 << 20, 10} {
				m := strings.Repeat(string(rune('a'+i)), size)
				all = append(all, m)
				in = append(in, toward(server, opText, m)...)
				if !server.dec.hixie && size > 2 { // the same in fragments
					all = append(all, m)
					in = append(in, appendFrame(nil, opText, []byte(m[:1]), true)...)
					in = append(in, appendFrame(nil, opContinuation, []byte(m[1:size/2]), true)...)
					in = append(in, appendFrame(nil, finBit|opPing, []byte("between"), true)...)
					in = append(in, appendFrame(nil, finBit|opContinuation, []byte(m[size/2:]), true)...)
				}
			}
			in = append(in, toward(server, opClose, closing(CloseNormal, ""))...)
			go client.rw.Write(in) // as one segment, as far as the transport can
			go io.Copy(io.Discard, client.rw)
			n := 0
			err := server.Serve(Handler{OnMessage: func(_ *Conn, typ MessageType, p []byte) {
				if n >= len(all) || typ != Text || string(p) != all[n] {
					t.Fatalf("message %d is %.20q, %d bytes", n, p, len(p))
				}
				if cap(p) != len(p) {
					t.Errorf("message %d: %d bytes of %d", n, len(p), cap(p))
				}
				_ = append(p, strings.Repeat("\xff", 100)...)
				n++
			}})
			if _, ok := errors.AsType[*CloseError](err); !ok || n != len(all) {
				t.Errorf("%d of %d messages, then %v", n, len(all), err)
			}
		})
	}
}

// The payload does not change while OnMessage runs, even if the connection is closed.
func TestServePayloadClosed(t *testing.T) {
	for _, size := range []int{100, 20_000} {
		for _, end := range []string{"CloseWith", "CloseNow", "peer"} {
			t.Run(fmt.Sprintf("%s/%d", end, size), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					c, peer := barePeer(t, nil, false)
					go io.Copy(io.Discard, peer)
					m := strings.Repeat("m", size)
					go func() {
						frame := toward(c, opBinary, m)
						peer.Write(append(frame, toward(c, opBinary, strings.Repeat("x", size))...))
						switch end {
						case "CloseWith":
							c.CloseWith(3000, "")
						case "CloseNow":
							c.CloseNow()
						}
						peer.Close()
					}()
					calls := 0
					c.Serve(Handler{OnMessage: func(_ *Conn, _ MessageType, p []byte) {
						if calls++; calls > 1 {
							return
						}
						time.Sleep(time.Second)
						// The pools give out other memory than that.
						for range 10 {
							b, l := inputs.Get().(*[inputSize]byte), messages.Get().(*messageBuffer)
							clear(b[:])
							clear(l.b[:cap(l.b)])
						}
						if string(p) != m {
							t.Error("the payload has changed")
						}
					}})
				})
			})
		}
	}
}

// TestServeClose closes a connection from within each callback, and from another goroutine
// while it runs.
func TestServeClose(t *testing.T) {
	closes := []struct {
		name string
		f    func(*Conn) error
		code CloseCode // or 0 for no closing handshake
	}{
		{"CloseWith", func(c *Conn) error { return c.CloseWith(3000, "bye") }, 3000},
		{"Close", (*Conn).Close, CloseNormal},
		{"CloseNow", (*Conn).CloseNow, 0},
		{"CloseWith, Close", func(c *Conn) error { return errors.Join(c.CloseWith(3000, ""), c.Close()) }, 3000},
		{"Close, CloseNow", func(c *Conn) error { return errors.Join(c.Close(), c.CloseNow()) }, CloseNormal},
	}
	for _, cl := range closes {
		for _, at := range []string{"open", "message", "close", "timeout"} {
			for _, elsewhere := range []bool{false, true} {
				for _, client := range []bool{false, true} {
					t.Run(fmt.Sprintf("%s/%s/elsewhere=%t/client=%t", cl.name, at, elsewhere, client), func(t *testing.T) {
						synctest.Test(t, func(t *testing.T) {
							c, peer := pipe(t, nil)
							if client {
								c, peer = peer, c
							}
							start := time.Now()
							closed, ends := 0, []error(nil)
							act := func(place string) {
								if place != at {
									return
								}
								var err error
								if elsewhere {
									err = wait(t, goErr(func() error { return cl.f(c) }))
								} else {
									err = cl.f(c)
								}
								if closed++; err != nil {
									t.Errorf("closing returned %v", err)
								}
							}
							done := goErr(func() error {
								return c.Serve(Handler{
									OnOpen: func(c *Conn) {
										if at == "timeout" {
											c.SetReadDeadline(time.Now().Add(time.Second))
										}
										act("open")
									},
									OnMessage: func(*Conn, MessageType, []byte) { act("message") },
									OnClose: func(_ *Conn, err error) {
										ends = append(ends, err)
										act("close")
										act("timeout")
									},
								})
							})
							seen := make(chan error, 1)
							go func() {
								if at == "message" {
									peer.WriteMessage(Text, nil)
								}
								if at == "close" {
									peer.Close()
								}
								_, _, err := peer.ReadMessage()
								seen <- err
								peer.Close()
							}()
							err := wait(t, done)
							if closed != 1 || len(ends) != 1 || ends[0] != err {
								t.Errorf("closed %d times, OnClose got %v, Serve returned %v", closed, ends, err)
							}
							peerErr := wait(t, seen)
							switch {
							case at == "close":
								checkCode(t, err, CloseNormal, byPeer)
							case at == "timeout":
								if !errors.Is(err, os.ErrDeadlineExceeded) {
									t.Errorf("Serve returned %v, want a timeout", err)
								}
							case cl.code != 0:
								checkCode(t, err, cl.code, byUs)
							case err != net.ErrClosed:
								t.Errorf("Serve returned %v", err)
							}
							switch {
							case at == "close":
							case strings.Contains(cl.name, "CloseNow"): // and perhaps a close frame before
								if peerErr == nil {
									t.Error("the peer has got a message")
								}
							default:
								checkCode(t, peerErr, cl.code, byPeer)
							}
							want := time.Duration(0)
							if at == "timeout" {
								want = time.Second
							}
							if d := time.Since(start); d != want {
								t.Errorf("it took %v", d)
							}
							synctest.Wait()
							checkStopped(t, c)
						})
					})
				}
			}
		}
	}
}

// TestServeCloseRace closes served connections in all ways at once, under load.
func TestServeCloseRace(t *testing.T) {
	for round := range 40 {
		var opens, ends atomic.Int32
		s := &Server{Options: Options{MaxQueue: 20_000, CloseTimeout: 200 * time.Millisecond}}
		opened := make(chan *Conn, 1)
		s.OnOpen = func(c *Conn) {
			opens.Add(1)
			opened <- c
		}
		s.OnMessage = func(c *Conn, typ MessageType, p []byte) {
			c.WriteMessage(typ, p)
			if p[0] == byte(round) {
				c.CloseWith(3001, "")
			}
		}
		s.OnClose = func(c *Conn, err error) {
			if ends.Add(1); err == nil {
				t.Error("OnClose without an error")
			}
			c.Close()
		}
		a, b := socketPair(t, "tcp", "127.0.0.1:0")
		c := newConn(a, &s.Options, false)
		client := newConn(b, nil, true)
		served := goErr(func() error {
			s.begin()
			c.beginServe(time.Second)
			s.add(c)
			s.serve(c, s.Handler, nil)
			return nil
		})
		wait(t, opened)
		var group sync.WaitGroup
		group.Go(func() {
			for i := range 100 {
				client.WriteMessage(Binary, append([]byte{byte(i)}, make([]byte, 300)...))
			}
		})
		group.Go(func() {
			for {
				if _, _, err := client.ReadMessage(); err != nil {
					client.CloseNow()
					return
				}
			}
		})
		for i, f := range []func(){
			func() { c.CloseWith(3000, "") },
			func() { c.Close() },
			func() { s.Shutdown(t.Context()) },
			func() {
				for range 30 {
					s.Broadcast(Binary, make([]byte, 1000)) // until it is too much
				}
			},
			func() { c.CloseNow() },
			func() { c.SetReadDeadline(time.Now()) },
		} {
			if i == round%7 {
				continue // another one is left to come first
			}
			group.Go(f)
		}
		if err := wait(t, served); err != nil {
			t.Error(err)
		}
		done := goErr(func() error { group.Wait(); return nil })
		wait(t, done)
		if opens.Load() != 1 || ends.Load() != 1 || s.active != 0 {
			t.Fatalf("round %d: %d calls of OnOpen, %d of OnClose, %d active", round, opens.Load(), ends.Load(), s.active)
		}
		checkStopped(t, c)
	}
}

// Whoever else reads gets an error, and Serve is not disturbed.
func TestServeAndRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := pipe(t, nil)
		reads := func(c *Conn) {
			_, _, err := c.ReadMessage()
			_, _, err2 := c.AppendMessage(nil)
			_, _, err3 := c.NextReader()
			_, err4 := c.Read(make([]byte, 10))
			_, err5 := GetFrame(c)
			_, err6 := ShakeHands(c)
			err7 := c.Serve(Handler{OnOpen: func(*Conn) { t.Error("OnOpen is called") }})
			for i, err := range []error{err, err2, err3, err4, err5, err6, err7} {
				if err == nil {
					t.Errorf("method %d has returned no error", i)
				}
			}
		}
		// A reader that has left a rest, which Serve skips.
		go func() {
			client.WriteMessage(Text, []byte("first"))
			client.WriteMessage(Text, []byte("second"))
			client.Close()
		}()
		_, r, err := server.NextReader()
		if err != nil {
			t.Fatal(err)
		}
		if n, err := r.Read(make([]byte, 2)); n != 2 || err != nil {
			t.Fatal(n, err)
		}
		var got []string
		err = server.Serve(Handler{
			OnOpen: reads,
			OnMessage: func(c *Conn, _ MessageType, p []byte) {
				got = append(got, string(p))
				reads(c)
				if _, err := r.Read(make([]byte, 1)); err == nil || err == io.EOF {
					t.Errorf("a reader of before: %v", err)
				}
			},
			OnClose: func(c *Conn, _ error) { reads(c) },
		})
		checkCode(t, err, CloseNormal, byPeer)
		if !slices.Equal(got, []string{"second"}) {
			t.Errorf("messages: %q", got)
		}
		reads(server)
	})
}

// Serve delivers what Read has left of a message, as other methods do.
func TestServeAfterRead(t *testing.T) {
	server, client := tcpPipe(t, nil)
	go func() {
		client.WriteMessage(Text, []byte("first"))
		client.WriteMessage(Text, []byte("second"))
		client.Close()
	}()
	if n, err := io.ReadFull(server, make([]byte, 2)); n != 2 {
		t.Fatal(err)
	}
	var got []string
	server.Serve(Handler{OnMessage: func(_ *Conn, _ MessageType, p []byte) { got = append(got, string(p)) }})
	if !slices.Equal(got, []string{"rst", "second"}) {
		t.Errorf("messages: %q", got)
	}
}

// A connection that has ended is served with OnOpen and OnClose only.
func TestServeClosed(t *testing.T) {
	for _, end := range []func(*Conn) error{(*Conn).CloseNow, func(c *Conn) error { return c.CloseWith(3000, "") }} {
		server, client := pipe(t, nil)
		go client.ReadMessage()
		end(server)
		var y tally
		err := server.Serve(y.handler(t))
		if err == nil || y.opens != 1 || y.calls != 0 || !slices.Equal(y.ends, []error{err}) {
			t.Errorf("Serve returned %v, OnClose got %v after %d calls of OnOpen", err, y.ends, y.opens)
		}
	}
}

// The replies to messages that have come together leave together.
func TestServeBatch(t *testing.T) {
	for _, hixie := range []bool{false, true} {
		for _, broadcast := range []bool{false, true} {
			c, rw := tapeConn(nil, false, hixie)
			s := new(Server)
			s.add(c)
			var in []byte
			for i := range 16 {
				in = append(in, toward(c, opText, fmt.Sprint(i))...)
			}
			rw.in = [][]byte{in, bytes.Clone(in)}
			n := 0
			c.Serve(Handler{OnMessage: func(c *Conn, typ MessageType, p []byte) {
				if c.WriteMessage(typ, p); broadcast && n == 20 {
					s.Broadcast(Text, []byte("all"))
				}
				n++
			}})
			if n != 32 {
				t.Errorf("%d messages", n)
			}
			var got []string
			for _, f := range parseSent(t, c, rw.written()) {
				if f.opcode == opText {
					got = append(got, f.payload)
				}
			}
			want := strings.Fields(strings.Repeat("0 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 ", 2))
			if broadcast {
				want = slices.Insert(want, 21, "all")
			}
			if !slices.Equal(got, want) {
				t.Errorf("hixie=%t: sent %q", hixie, got)
			}
			if w := rw.writes(); parseSent(t, c, w[0].wrote)[15].payload != "15" || !broadcast && len(w) > 3 {
				t.Errorf("hixie=%t: %d writes, the first of %q", hixie, len(w), w[0].wrote)
			}
		}
	}
}

// A read deadline of the user's ends Serve, unless it is moved in time.
func TestServeDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		server, client := pipe(t, nil)
		start := time.Now()
		extend := func(c *Conn) { c.SetReadDeadline(time.Now().Add(time.Second)) }
		seen := goErr(func() error {
			for range 10 {
				time.Sleep(time.Second - 1)
				client.WriteMessage(Text, nil)
			}
			_, _, err := client.ReadMessage()
			return err
		})
		err := server.Serve(Handler{OnOpen: extend, OnMessage: func(c *Conn, _ MessageType, _ []byte) { extend(c) }})
		if !errors.Is(err, os.ErrDeadlineExceeded) || time.Since(start) != 11*time.Second-10 {
			t.Errorf("Serve returned %v after %v", err, time.Since(start))
		}
		checkCode(t, wait(t, seen), CloseNormal, byPeer)
		checkStopped(t, server)
	})
}

// TestServerSlowHandshake lets many clients send their handshakes a byte a second. They
// are dropped when the time is over, and do not keep others out.
func TestServerSlowHandshake(t *testing.T) {
	slow := 10_000
	if raceEnabled {
		slow = 1000 // the race detector has room for 8128 goroutines
	}
	timeout := 5 * time.Second
	for _, raw := range []bool{false, true} {
		t.Run(fmt.Sprintf("raw=%t", raw), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				var connect func() net.Conn
				if raw {
					connect = func() net.Conn {
						a, b := net.Pipe()
						go func() {
							c := NewConn(a, &Options{HandshakeTimeout: timeout})
							if _, err := ShakeHands(c); err != nil {
								c.CloseNow()
								return
							}
							c.Serve(Handler{OnMessage: func(c *Conn, typ MessageType, p []byte) { c.WriteMessage(typ, p) }})
						}()
						return b
					}
				} else {
					s := new(Server)
					s.OnMessage = func(c *Conn, typ MessageType, p []byte) { c.WriteMessage(typ, p) }
					p := servePiped(t, s)
					p.ReadHeaderTimeout = timeout
					connect = func() net.Conn { return p.connect(t) }
				}
				start := time.Now()
				var group sync.WaitGroup
				var dropped atomic.Int32
				for range slow {
					conn := connect()
					group.Go(func() {
						defer conn.Close()
						for i := range rfcHead {
							if _, err := conn.Write([]byte{rfcHead[i]}); err != nil {
								break
							}
							time.Sleep(time.Second)
						}
					})
					group.Go(func() {
						io.Copy(io.Discard, conn) // until the server closes it
						if time.Since(start) == timeout {
							dropped.Add(1)
						}
					})
				}
				for range 3 {
					time.Sleep(1500 * time.Millisecond)
					c, err := ClientHandshake(connect(), "ws://server.example.com/chat", nil)
					if err != nil {
						t.Fatal(err)
					}
					go c.WriteMessage(Text, []byte("quick"))
					expectMessages(t, c, "quick")
					if err := c.Close(); err != nil {
						t.Error(err)
					}
				}
				if n := dropped.Load(); n > 0 {
					t.Errorf("%d were dropped too early", n)
				}
				group.Wait()
				if n := int(dropped.Load()); n != slow {
					t.Errorf("%d of %d were dropped in time", n, slow)
				}
			})
		})
	}
}

// While Serve waits for input, other readers get an error at once.
func TestServeWaitsAndRead(t *testing.T) {
	for name, read := range map[string]func(c *Conn) error{
		"ReadMessage": func(c *Conn) error { _, _, err := c.ReadMessage(); return err },
		"NextReader":  func(c *Conn) error { _, _, err := c.NextReader(); return err },
		"Read":        func(c *Conn) error { _, err := c.Read(make([]byte, 1)); return err },
		"ShakeHands":  func(c *Conn) error { _, err := ShakeHands(c); return err },
		"Serve":       func(c *Conn) error { return c.Serve(Handler{}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c, peer := pipe(t, nil)
				served := goErr(func() error { return c.Serve(Handler{}) })
				synctest.Wait()
				done := goErr(func() error { return read(c) })
				synctest.Wait()
				if len(done) == 0 {
					t.Error("it waits")
				}
				go peer.Close()
				if err := wait(t, done); err == nil {
					t.Error("no error")
				}
				wait(t, served)
			})
		})
	}
}

// When OnClose runs, the connection is not among Conns and gets no broadcasts, even if a
// read deadline of the user's has ended it.
func TestConnsAfterDeadline(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		done := make(chan int, 1)
		s := new(Server)
		s.OnOpen = func(c *Conn) { c.SetReadDeadline(time.Now().Add(time.Second)) }
		s.OnClose = func(c *Conn, err error) {
			s.Broadcast(Text, []byte("left"))
			done <- len(slices.Collect(s.Conns()))
		}
		p := servePiped(t, s)
		c := p.join(t, "/", nil)
		seen := goErr(func() error { _, _, err := c.ReadMessage(); return err })
		if n := wait(t, done); n != 0 {
			t.Errorf("%d connections while OnClose runs", n)
		}
		if err := wait(t, seen); err == nil {
			t.Error("the client has got a broadcast after OnClose was called")
		}
	})
}

// Buffers for messages in fragments keep their size.
func TestServeFragmentsAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	c := newConn(nil, nil, false)
	var in []byte
	for range 100 {
		for _, size := range []int{10, 40_000} {
			in = append(in, appendFrame(nil, opText, []byte(strings.Repeat("x", size/2)), true)...)
			in = append(in, appendFrame(nil, finBit|opContinuation, []byte(strings.Repeat("x", size/2)), true)...)
		}
	}
	rw := &tape{}
	rw.in = [][]byte{in}
	c = newConn(rw, nil, false)
	n := 0
	if b := allocated(func() {
		c.Serve(Handler{OnMessage: func(*Conn, MessageType, []byte) { n++ }})
	}); n != 200 || b > 1<<20 {
		t.Errorf("%d bytes were allocated for %d messages", b, n)
	}
}

// A peer that takes a little of a write in every interval is not closed.
func TestKeepaliveTrickle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const interval = 5 * time.Second
		c, peer := barePeer(t, &Options{PingInterval: interval}, false)
		served := goErr(func() error {
			return c.Serve(Handler{OnOpen: func(c *Conn) { c.WriteMessage(Binary, make([]byte, 1<<20)) }})
		})
		stopped := goErr(func() error {
			p := make([]byte, 16<<10)
			for {
				time.Sleep(interval / 2)
				if _, err := io.ReadFull(peer, p); err != nil {
					return err
				}
			}
		})
		time.Sleep(20 * interval)
		if len(served) > 0 {
			t.Errorf("closed: %v", <-served)
		}
		c.CloseNow()
		peer.Close()
		<-stopped
	})
}

// Large broadcasts do not cost memory for every client, once they have been sent.
func TestBroadcastLargeAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	const clients = 50
	var bytes sync.WaitGroup
	s := new(Server)
	for range clients {
		c := newConn(sink{&bytes, make(chan struct{})}, nil, false)
		c.beginServe(-1)
		c.opened()
		s.add(c)
		defer c.CloseNow()
	}
	p := []byte(strings.Repeat("x", 200<<10))
	broadcast := func() {
		bytes.Add(clients * len(appendFrame(nil, finBit|opText, p, false)))
		s.Broadcast(Text, p)
		bytes.Wait()
	}
	broadcast()
	if n := testing.AllocsPerRun(10, broadcast); n > clients/2 {
		t.Errorf("%v allocations for %d clients", n, clients)
	}
}

// What goes to the log is the server's fault.
func TestServerLog(t *testing.T) {
	get := func(old, new string) string { return editHead(t, rfcHead, old, new) }
	own := get("Origin: http://example.com\r\n", "")
	type plainWriter struct{ http.ResponseWriter }
	direct := func(s *Server) http.Handler { return s }
	for _, tt := range []struct {
		name    string
		head    string
		o       Options
		handler func(*Server) http.Handler
		status  int
		log     string // or nothing
	}{
		{"HTTP/1.0", get("HTTP/1.1", "HTTP/1.0"), Options{}, direct, 505, ""},
		{"POST", get("GET", "POST"), Options{}, direct, 405, ""},
		{"Version", get("Version: 13", "Version: 8"), Options{}, direct, 426, ""},
		{"Origin", rfcHead, Options{}, direct, 403, ""},
		{"list of origins", own, Options{Origins: []string{"example.com"}}, direct, 500, `"example.com" in Options.Origins is no origin`},
		{"no Hijack", own, Options{}, func(s *Server) http.Handler {
			return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { s.ServeHTTP(plainWriter{w}, r) })
		}, 501, "websocket.plainWriter has neither Hijack nor Unwrap"},
		{"http.TimeoutHandler", own, Options{}, func(s *Server) http.Handler {
			return http.TimeoutHandler(s, time.Hour, "")
		}, 501, "*http.timeoutWriter has neither Hijack nor Unwrap"},
		{"shut down", own, Options{}, func(s *Server) http.Handler {
			s.Shutdown(t.Context())
			return s
		}, 503, ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := servePiped(t, tt.handler(&Server{Options: tt.o}))
				conn := p.connect(t)
				go io.WriteString(conn, tt.head)
				resp, err := http.ReadResponse(bufio.NewReader(conn), nil)
				if err != nil || resp.StatusCode != tt.status {
					t.Fatalf("%v, %v, want %d", resp, err, tt.status)
				}
				synctest.Wait()
				if got := p.log.String(); tt.log == "" && got != "" || !strings.Contains(got, tt.log) {
					t.Errorf("log: %q, want %q", got, tt.log)
				}
			})
		})
	}
}

// A halfConn has no more input, as that of a peer that has half-closed it.
type halfConn struct{ net.Conn }

func (halfConn) Read([]byte) (int, error) { return 0, io.EOF }

// A peer that has half-closed and does not read cannot hold up an OnClose that writes.
func TestServeOnCloseWrites(t *testing.T) {
	for _, timeout := range []time.Duration{0, time.Second} {
		for _, client := range []bool{false, true} {
			synctest.Test(t, func(t *testing.T) {
				a, peer := net.Pipe()
				defer peer.Close()
				c := newConn(halfConn{a}, &Options{CloseTimeout: timeout, PingInterval: time.Second}, client)
				defer c.CloseNow()
				start := time.Now()
				var written error
				served := goErr(func() error {
					return c.Serve(Handler{OnClose: func(c *Conn, _ error) { written = c.WriteMessage(Text, []byte("left")) }})
				})
				if err := wait(t, served); err != io.EOF || written == nil {
					t.Errorf("Serve: %v, WriteMessage: %v", err, written)
				}
				want := timeout
				if timeout == 0 {
					want = closeTimeout
				}
				if d := time.Since(start); d != want {
					t.Errorf("it took %v, want %v", d, want)
				}
				checkStopped(t, c)
			})
		}
	}
}

// Serve leaves no large buffer for others, whom a byte of a message would let hold it.
func TestServePool(t *testing.T) {
	message := appendFrame(nil, opBinary, []byte("x"), true)
	message = appendFrame(message, finBit|opContinuation, make([]byte, 700<<10), true)
	for range 20 { // a buffer that another thread has put may not be found
		n := 0
		newConn(&tape{in: [][]byte{bytes.Clone(message)}}, nil, false).Serve(Handler{
			OnMessage: func(_ *Conn, _ MessageType, p []byte) { n += len(p) },
		})
		if n != 1+700<<10 {
			t.Fatalf("read %d bytes", n)
		}
		for range 10 {
			if buf := messages.Get().(*messageBuffer); cap(buf.b) > batchSize {
				t.Fatalf("the pool holds %d bytes", cap(buf.b))
			}
		}
	}
}

// TestServeLarge has messages of many sizes come over TCP, whose buffers are used again.
func TestServeLarge(t *testing.T) {
	a, b := socketPair(t, "tcp", "127.0.0.1:0")
	c, client := newConn(a, nil, false), newConn(b, nil, true)
	sizes := []int{1 << 20, 5, 700 << 10, 1 << 20, 40 << 10, 1 << 20, 0, 100 << 10}
	message := func(i int) []byte { return bytes.Repeat([]byte{byte(i + 1)}, sizes[i]) }
	var got int
	served := goErr(func() error {
		return c.Serve(Handler{OnMessage: func(_ *Conn, _ MessageType, p []byte) {
			if !bytes.Equal(p, message(got)) {
				t.Errorf("message %d has %d bytes, or others", got, len(p))
			}
			got++
		}})
	})
	for i := range sizes {
		if err := client.WriteMessage(Binary, message(i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := client.Close(); err != nil {
		t.Error(err)
	}
	checkCode(t, wait(t, served), CloseNormal, byPeer)
	if got != len(sizes) {
		t.Errorf("%d messages, want %d", got, len(sizes))
	}
}

// TestSend sends to some, and broadcasts in between.
func TestSend(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := make(chan *Conn, 1)
		open := Handler{OnOpen: func(c *Conn) { opened <- c }}
		s := &Server{Handler: open, Options: Options{MaxQueue: 1000}}
		p := servePiped(t, s)
		var clients, conns [3]*Conn
		for i := range clients {
			clients[i] = p.join(t, "/", nil)
			conns[i] = <-opened
		}
		_, raw := p.joinHixie(t)
		hixie := <-opened
		p.join(t, "/", nil).CloseNow()
		ended := <-opened
		other := servePiped(t, &Server{Handler: open}).join(t, "/", nil)
		foreign := <-opened
		stranger, peer := pipe(t, nil)
		synctest.Wait()

		a, b, c := conns[0], conns[1], conns[2]
		all := []*Conn{a, b, c, hixie}
		big := strings.Repeat("x", 1000)
		for _, tt := range []struct {
			typ MessageType
			p   string
			to  []*Conn // or all, by Broadcast
			ok  bool
		}{
			{Text, "to a", []*Conn{a}, true},
			{Text, "to nobody", []*Conn{}, true},
			{Text, "all 1", nil, true},
			{Text, "to b and hixie", []*Conn{hixie, b}, true},
			{Text, "all 2", nil, true},
			{Text, "bad \xff", all, false},
			{0, "no type", all, false},
			{MessageType(opPing), "no type", all, false},
			{Binary, big + "x", all, false},
			{Text, "to those that are", []*Conn{nil, ended, foreign, stranger, c}, true},
			{Binary, "\x00\xff", all, true},
			{Text, "twice", []*Conn{a, hixie, a, hixie}, true},
		} {
			err := error(nil)
			if tt.to == nil {
				err = s.Broadcast(tt.typ, []byte(tt.p))
			} else {
				err = s.Send(tt.typ, []byte(tt.p), tt.to...)
			}
			if (err == nil) != tt.ok {
				t.Errorf("%v %.20q: %v", tt.typ, tt.p, err)
			}
		}
		expectMessages(t, clients[0], "to a", "all 1", "all 2", "\x00\xff", "twice", "twice")
		expectMessages(t, clients[1], "all 1", "to b and hixie", "all 2", "\x00\xff")
		expectMessages(t, clients[2], "all 1", "all 2", "to those that are", "\x00\xff")
		expect(t, raw, "\x00all 1\xff\x00to b and hixie\xff\x00all 2\xff\x00twice\xff\x00twice\xff")
		for _, c := range []*Conn{other, peer} {
			c.SetReadDeadline(time.Now().Add(time.Second))
			if _, p, err := c.ReadMessage(); !errors.Is(err, os.ErrDeadlineExceeded) {
				t.Errorf("a connection of others has got %q, %v", p, err)
			}
		}

		// The largest that may wait, where nothing else does.
		if err := s.Send(Text, []byte(big), all...); err != nil {
			t.Errorf("a message of MaxQueue bytes: %v", err)
		}
		for _, c := range clients {
			expectMessages(t, c, big)
		}
		expect(t, raw, "\x00"+big+"\xff")

		var seen sync.WaitGroup
		for _, c := range clients {
			seen.Go(func() { expectClose(t, c, CloseGoingAway) })
		}
		go io.Copy(io.Discard, raw)
		if err := s.Shutdown(t.Context()); err != nil {
			t.Error(err)
		}
		seen.Wait()
		if err := s.Send(Text, []byte("to nobody"), all...); err != nil {
			t.Errorf("Send after Shutdown: %v", err)
		}
	})
}

// A client that does not read holds up neither Send nor those that get the same.
func TestSendSlowClient(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		opened := make(chan *Conn, 1)
		ends := make(map[*Conn]error)
		s := &Server{Options: Options{MaxQueue: 1000}}
		s.OnOpen = func(c *Conn) { opened <- c }
		s.OnClose = func(c *Conn, err error) { ends[c] = err } // no other runs at that time
		p := servePiped(t, s)
		p.join(t, "/", nil)
		slow := <-opened
		reader := p.join(t, "/", nil)
		quick := <-opened
		start := time.Now()
		for i := range 100 {
			text := fmt.Sprintf("%099d", i)
			if err := s.Send(Text, []byte(text), slow, quick); err != nil {
				t.Fatal(err)
			}
			expectMessages(t, reader, text)
		}
		synctest.Wait()
		if d := time.Since(start); d != 0 {
			t.Errorf("it took %v", d)
		}
		if got := slices.Collect(s.Conns()); len(got) != 1 || got[0] != quick || len(ends) != 1 {
			t.Fatalf("%d connections are left, %d have ended", len(got), len(ends))
		}
		checkCode(t, ends[slow], ClosePolicyViolation, byUs)
		slow.CloseNow()
		reader.CloseNow()
		synctest.Wait()
	})
}

type userKey struct{}

// checkServe tests Server.Serve with functions for each connection, which know the context
// of its request. serve starts an http.Server that logs to out, and returns what connects a
// user to it.
func checkServe(t *testing.T, out *serverLog, serve func(http.Handler) (join func(user string) *Conn)) {
	ends := make(chan string, 2)
	s := &Server{Handler: Handler{
		OnOpen:    func(*Conn) { t.Error("OnOpen of the Server is called") },
		OnMessage: func(*Conn, MessageType, []byte) { t.Error("OnMessage of the Server is called") },
		OnClose:   func(*Conn, error) { t.Error("OnClose of the Server is called") },
	}}
	join := serve(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		// As a middleware does.
		r = r.WithContext(context.WithValue(r.Context(), userKey{}, r.Header.Get("User")))

		ctx := context.WithoutCancel(r.Context())
		n := 0
		s.Serve(w, r, Handler{
			OnOpen: func(c *Conn) { c.WriteMessage(Text, []byte("welcome")) },
			OnMessage: func(c *Conn, typ MessageType, p []byte) {
				if string(p) == "panic" {
					panic("out of tea")
				}
				n++
				c.WriteMessage(typ, fmt.Appendf(nil, "%v, %d: %s, %v", ctx.Value(userKey{}), n, p, ctx.Err()))
			},
			OnClose: func(*Conn, error) { ends <- ctx.Value(userKey{}).(string) },
		})
	}))
	alice, bob := join("alice"), join("bob")
	say := func(c *Conn, p string) {
		t.Helper()
		if err := c.WriteMessage(Text, []byte(p)); err != nil {
			t.Fatal(err)
		}
	}
	expectMessages(t, alice, "welcome")
	expectMessages(t, bob, "welcome")
	say(alice, "a")
	expectMessages(t, alice, "alice, 1: a, <nil>")
	say(bob, "b")
	expectMessages(t, bob, "bob, 1: b, <nil>")
	say(alice, "c")
	expectMessages(t, alice, "alice, 2: c, <nil>")
	if n := len(slices.Collect(s.Conns())); n != 2 {
		t.Errorf("%d connections", n)
	}
	s.Broadcast(Text, []byte("all"))
	expectMessages(t, alice, "all")
	expectMessages(t, bob, "all")

	say(bob, "panic")
	expectClose(t, bob, CloseInternalError)
	bob.Close()
	if got := wait(t, ends); got != "bob" {
		t.Errorf("OnClose of %s", got)
	}
	synctest.Wait()
	if got := out.String(); !strings.Contains(got, "websocket: panic serving") || !strings.Contains(got, "out of tea") {
		t.Errorf("log: %q", got)
	}

	down := goErr(func() error { return s.Shutdown(context.Background()) })
	expectClose(t, alice, CloseGoingAway)
	alice.Close()
	if err := wait(t, down); err != nil {
		t.Errorf("Shutdown: %v", err)
	}
	if len(ends) != 1 || <-ends != "alice" {
		t.Error("Shutdown has not waited for OnClose")
	}
}

func TestServerServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := servePiped(t, nil)
		checkServe(t, &p.log, func(h http.Handler) func(string) *Conn {
			p.Server.Handler = h
			return func(user string) *Conn {
				return p.join(t, "/", &Options{Header: http.Header{"User": {user}}})
			}
		})
	})
}

// awaitRest waits until so many connections of servers wait for input on a small stack, and
// so many others are served.
func awaitRest(t testing.TB, resting, others int) {
	t.Helper()
	b := make([]byte, 1<<20)
	for deadline := time.Now().Add(20 * time.Second); ; runtime.Gosched() {
		r, o := 0, 0
		for stack := range strings.SplitSeq(string(b[:runtime.Stack(b, true)]), "\n\n") {
			switch {
			case strings.Contains(stack, ".(*Conn).serve("):
				o++
			case strings.Contains(stack, ".(*Server).rest("):
				r++
			}
		}
		if r == resting && o == others {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections rest and %d do not, want %d and %d", r, o, resting, others)
		}
	}
}

// TestServerRest follows connections from rest to rest: new ones, after a message, when they
// have been busy, and when they have been silent for a while.
func TestServerRest(t *testing.T) {
	const n = 3
	opened := make(chan *Conn, n)
	s := &Server{Options: Options{PingInterval: time.Hour}, Handler: Handler{
		OnOpen:    func(c *Conn) { opened <- c },
		OnMessage: func(c *Conn, m MessageType, p []byte) { c.WriteMessage(m, p) },
	}}
	l := serveTCP(t, s, false)
	t.Cleanup(func() { s.Shutdown(t.Context()) })
	var clients, conns []*Conn
	for range n {
		c, err := ClientHandshake(dialTCP(t, l), "ws://server.example.com/", nil)
		if err != nil {
			t.Fatal(err)
		}
		defer c.CloseNow()
		clients, conns = append(clients, c), append(conns, wait(t, opened))
	}
	echo := func(c *Conn) {
		t.Helper()
		if err := c.WriteMessage(Text, []byte("Hello")); err != nil {
			t.Fatal(err)
		}
		expectMessages(t, c, "Hello")
	}
	awaitRest(t, n, 0)
	for _, c := range clients {
		echo(c)
	}
	awaitRest(t, n, 0)
	if err := s.Broadcast(Text, []byte("news")); err != nil {
		t.Fatal(err)
	}
	for _, c := range clients {
		expectMessages(t, c, "news")
	}
	for range 3 {
		echo(clients[0])
	}
	awaitRest(t, n-1, 1)

	// It has been silent from one call of keepAlive to the next.
	c := clients[0]
	conns[0].keepAlive()
	conns[0].keepAlive()
	c.SetReadDeadline(time.Now().Add(20 * time.Second))
	pinged := goErr(func() error { _, _, err := c.ReadMessage(); return err })
	awaitRest(t, n, 0)
	conns[0].WriteMessage(Text, []byte("still here"))
	if err := wait(t, pinged); err != nil {
		t.Error(err)
	}

	// What comes in pieces is waited for as ever.
	conns[0].keepAlive()
	conns[0].keepAlive()
	whole := appendFrame(nil, finBit|opText, []byte("in pieces"), true)
	for _, b := range whole {
		c.mu.Lock()
		err := c.putBytes([]byte{b})
		c.mu.Unlock()
		if err != nil {
			t.Fatal(err)
		}
	}
	expectMessages(t, c, "in pieces")
	echo(c)
}

// TestServerRestEnds ends connections that are at rest.
func TestServerRestEnds(t *testing.T) {
	tests := []struct {
		name  string
		end   func(t *testing.T, s *Server, c, client *Conn)
		check func(t *testing.T, err error) // of OnClose
		peer  CloseCode                     // that the client reads, or 0
	}{
		{"peer closes", func(t *testing.T, _ *Server, _, client *Conn) {
			if err := client.CloseWith(4000, "bye"); err != nil {
				t.Error(err)
			}
		}, func(t *testing.T, err error) { checkCode(t, err, 4000, byPeer) }, 0},
		{"peer ends", func(t *testing.T, _ *Server, _, client *Conn) { client.CloseNow() },
			func(t *testing.T, err error) {
				if err != io.EOF {
					t.Error(err)
				}
			}, 0},
		{"peer resets", func(t *testing.T, _ *Server, _, client *Conn) {
			client.rw.(*net.TCPConn).SetLinger(0)
			client.CloseNow()
		}, func(t *testing.T, err error) {
			if !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
		}, 0},
		{"peer breaks the protocol", func(t *testing.T, _ *Server, _, client *Conn) {
			client.mu.Lock()
			defer client.mu.Unlock()
			client.putBytes([]byte{0x83, 0x80, 0, 0, 0, 0})
		}, func(t *testing.T, err error) { checkCode(t, err, CloseProtocolError, byFailure) }, CloseProtocolError},
		{"CloseWith", func(t *testing.T, _ *Server, c, _ *Conn) {
			if err := c.CloseWith(4001, ""); err != nil {
				t.Error(err)
			}
		}, func(t *testing.T, err error) { checkCode(t, err, 4001, byUs) }, 4001},
		{"CloseNow", func(t *testing.T, _ *Server, c, _ *Conn) { c.CloseNow() },
			func(t *testing.T, err error) {
				if err != net.ErrClosed {
					t.Error(err)
				}
			}, 0},
		{"read deadline", func(t *testing.T, _ *Server, c, _ *Conn) { c.SetReadDeadline(time.Unix(1, 0)) },
			func(t *testing.T, err error) {
				if !errors.Is(err, os.ErrDeadlineExceeded) {
					t.Error(err)
				}
			}, CloseNormal},
		{"Shutdown", func(t *testing.T, s *Server, _, _ *Conn) {
			if err := s.Shutdown(t.Context()); err != nil {
				t.Error(err)
			}
		}, func(t *testing.T, err error) { checkCode(t, err, CloseGoingAway, byUs) }, CloseGoingAway},
		{"panic", func(t *testing.T, _ *Server, _, client *Conn) { client.WriteMessage(Text, []byte("panic")) },
			func(t *testing.T, err error) { checkCode(t, err, CloseInternalError, byUs) }, CloseInternalError},
	}
	for _, tt := range tests {
		t.Run(tt.name, func(t *testing.T) {
			opened, closed := make(chan *Conn, 1), make(chan error, 2)
			s := &Server{Handler: Handler{
				OnOpen: func(c *Conn) { opened <- c },
				OnMessage: func(_ *Conn, _ MessageType, p []byte) {
					if string(p) == "panic" {
						panic("out of tea")
					}
				},
				OnClose: func(_ *Conn, err error) { closed <- err },
			}}
			l := serveTCP(t, s, false)
			client, err := ClientHandshake(dialTCP(t, l).(*net.TCPConn), "ws://server.example.com/", nil)
			if err != nil {
				t.Fatal(err)
			}
			defer client.CloseNow()
			if err := client.WriteMessage(Text, []byte("Hello")); err != nil {
				t.Fatal(err)
			}
			c := wait(t, opened)
			awaitRest(t, 1, 0)
			read := make(chan error, 1)
			if tt.peer != 0 {
				go func() {
					_, _, err := client.ReadMessage()
					client.Close()
					read <- err
				}()
			}
			tt.end(t, s, c, client)
			tt.check(t, wait(t, closed))
			if tt.peer != 0 {
				if e, ok := errors.AsType[*CloseError](wait(t, read)); !ok || e.Code != tt.peer {
					t.Errorf("the peer has read %v, want %v", e, tt.peer)
				}
			}
			awaitRest(t, 0, 0)
			if err := s.Shutdown(t.Context()); err != nil || len(closed) > 0 {
				t.Errorf("Shutdown: %v; OnClose was called %d times more", err, len(closed))
			}
		})
	}
}

// TestServePings has Serve ping a peer over a socket, outside of a Server.
func TestServePings(t *testing.T) {
	o := &Options{PingInterval: time.Hour}
	ends := map[string]func(t *testing.T, c *Conn) *Conn{
		"server": func(t *testing.T, c *Conn) *Conn { return c },
		"client": func(t *testing.T, c *Conn) *Conn { c.client, c.dec.masked = true, false; return c },
	}
	for name, end := range ends {
		t.Run(name, func(t *testing.T) {
			a, b := socketPair(t, "tcp", "127.0.0.1:0")
			c, peer := end(t, newConn(a, o, false)), newConn(b, nil, name == "server")
			opened, closed := make(chan struct{}), make(chan error, 1)
			served := goErr(func() error {
				return c.Serve(Handler{
					OnOpen:    func(*Conn) { close(opened) },
					OnMessage: func(c *Conn, m MessageType, p []byte) { c.WriteMessage(m, p) },
					OnClose:   func(_ *Conn, err error) { closed <- err },
				})
			})
			wait(t, opened)
			for range 3 {
				if err := peer.WriteMessage(Text, []byte("Hello")); err != nil {
					t.Fatal(err)
				}
				expectMessages(t, peer, "Hello") // and the peer has answered the ping
				awaitRest(t, 0, 1)
				c.keepAlive()
				c.keepAlive() // it has been silent since
			}
			if err := peer.Close(); err != nil {
				t.Error(err)
			}
			checkCode(t, wait(t, served), CloseNormal, byPeer)
			checkCode(t, wait(t, closed), CloseNormal, byPeer)
		})
	}
}

// TestSendOthers sends to connections of another Server, while these end.
func TestSendOthers(t *testing.T) {
	var s, other Server
	var conns []*Conn
	for range 10 {
		c, _ := tapeConn(nil, false, false)
		other.begin()
		other.add(c)
		conns = append(conns, c)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		for _, c := range conns {
			other.end(c)
		}
	})
	for range 100 {
		if err := s.Send(Text, nil, conns...); err != nil {
			t.Fatal(err)
		}
	}
	wg.Wait()
	for _, c := range conns {
		if w := c.rw.(*tape).writes(); len(w) > 0 {
			t.Errorf("sent %q", w[0].wrote)
		}
	}
}

// Messages of any size reuse a buffer, however they arrive.
func TestServeSizesAllocate(t *testing.T) {
	if raceEnabled {
		t.Skip("the race detector makes pools forget")
	}
	sizes := []int{20 << 10, 33 << 10, 40 << 10, 63 << 10, 66 << 10, 200 << 10, 1 << 20}
	for name, wrap := range map[string]func(net.Conn) net.Conn{
		"socket":          func(c net.Conn) net.Conn { return c },
		"other transport": func(c net.Conn) net.Conn { return struct{ net.Conn }{c} },
	} {
		for _, size := range sizes {
			a, b := socketPair(t, "tcp", "127.0.0.1:0")
			c, client := newConn(wrap(a), nil, false), newConn(b, nil, true)
			const n = 100
			got := make(chan int)
			served := goErr(func() error {
				return c.Serve(Handler{OnMessage: func(_ *Conn, _ MessageType, p []byte) { got <- len(p) }})
			})
			p := make([]byte, size)
			exchange := func(n int) {
				for range n {
					if err := client.WriteMessage(Binary, p); err != nil {
						t.Fatal(err)
					}
					if k := wait(t, got); k != size {
						t.Fatalf("a message of %d bytes", k)
					}
				}
			}
			exchange(10)
			if b := allocated(func() { exchange(n) }); b > n*uint64(size)/4 {
				t.Errorf("%s: %d bytes were allocated for %d messages of %d", name, b, n, size)
			}
			client.Close()
			wait(t, served)
		}
	}
}
