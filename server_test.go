package websocket

import (
	"bufio"
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

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
	small := func(ctx context.Context, conn net.Conn) context.Context {
		conn.(*net.TCPConn).SetWriteBuffer(64 << 10) // or else it may take most of the messages
		return ctx
	}
	url := serveLoopback(t, &http.Server{Handler: s, ConnContext: small})

	slow, err := net.Dial("tcp", strings.TrimPrefix(url, "ws://"))
	if err != nil {
		t.Fatal(err)
	}
	defer slow.Close()
	slow.(*net.TCPConn).SetReadBuffer(4 << 10)
	io.WriteString(slow, strings.Replace(rfcHead, "Origin: http://example.com\r\n", "", 1))
	slowConn := wait(t, opened)

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
		waiting := slowConn.write.waiting(slowConn.t.takenNow())
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
	for _, tt := range []struct {
		code   CloseCode
		reason string
		want   CloseError
	}{
		{CloseServiceRestart, "back at noon", CloseError{CloseServiceRestart, "back at noon", byPeer, nil}},
		{CloseNoStatus, "", CloseError{CloseNoStatus, "", byPeer, nil}},
		{4000, strings.Repeat("é", 62), CloseError{4000, strings.Repeat("é", 61), byPeer, nil}},
		{1006, "why", CloseError{CloseInternalError, "why", byPeer, nil}},
	} {
		inBubble(fmt.Sprint("with ", int(tt.code)), func(t *testing.T, s *Server, p *pipedServer, ends chan error) {
			check := func(c *Conn) {
				var e *CloseError
				if _, _, err := c.ReadMessage(); !errors.As(err, &e) || *e != tt.want {
					t.Errorf("a client was closed with %#v, want %#v", err, tt.want)
				}
				c.Close()
			}
			a := p.join(t, "/", nil)
			late := p.connect(t)
			io.WriteString(late, hixieHead) // the token is still to come
			synctest.Wait()
			done := goErr(func() error { return s.ShutdownWith(t.Context(), tt.code, tt.reason) })
			check(a)
			// The first call decides, for clients that come in meanwhile, too.
			again := goErr(func() error { return s.Shutdown(t.Context()) })
			io.WriteString(late, hixieToken)
			go io.Copy(io.Discard, late)
			if err := wait(t, done); (err != nil) != (tt.want.Code != tt.code) {
				t.Errorf("ShutdownWith returned %v", err)
			}
			if err := wait(t, again); err != nil {
				t.Error(err)
			}
			for range 2 {
				checkCode(t, wait(t, ends), tt.want.Code, byUs)
			}
		})
	}
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
					probe.write.hixie = version.version == Hixie76
					in += string(toward(probe, opClose, closing(CloseNormal, "")))
					opens := 0
					for n := 0; ; n++ {
						if n > 10000 {
							t.Fatal("there is no end")
						}
						y = tally{}
						cut = cutAfter(nil, fault, n)
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
		{"list of origins", own, Options{Origins: []string{"example.com/path"}}, direct, 101, `"example.com/path"`},
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

func TestServeHTTPWith(t *testing.T) {
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

// A connection counts from its opening handshake until its OnClose has returned. The count does
// not wait for any of them.
func TestNumConns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		s, returns := new(Server), make(chan bool)
		s.OnClose = func(*Conn, error) { <-returns }
		p := servePiped(t, s)
		check := func(when string, want int) {
			t.Helper()
			if n := s.NumConns(); n != want {
				t.Errorf("%s: %d connections, want %d", when, n, want)
			}
		}
		check("at first", 0)
		clients := []*Conn{p.join(t, "/", nil), p.join(t, "/", nil)}
		synctest.Wait()
		conns := slices.Collect(s.Conns())
		for _, c := range conns {
			c.mu.Lock()
		}
		check("while both are locked", 2)
		for _, c := range conns {
			c.mu.Unlock()
		}
		clients[0].CloseNow()
		synctest.Wait()
		check("while OnClose runs", 2)
		returns <- true
		synctest.Wait()
		check("after that", 1)
		clients[1].CloseNow()
		returns <- true
		synctest.Wait()
		check("in the end", 0)
	})
}
