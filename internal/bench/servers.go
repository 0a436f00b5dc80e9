package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"context"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"slices"
	"sync"
	"time"

	ours "github.com/54eee7d7/websocket"
	"github.com/coder/websocket"
	fastws "github.com/fasthttp/websocket"
	"github.com/gobwas/httphead"
	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsflate"
	"github.com/gobwas/ws/wsutil"
	gorilla "github.com/gorilla/websocket"
	kflate "github.com/klauspost/compress/flate"
	nbtls "github.com/lesismal/llib/std/crypto/tls"
	"github.com/lesismal/nbio/logging"
	"github.com/lesismal/nbio/nbhttp"
	nbws "github.com/lesismal/nbio/nbhttp/websocket"
	"github.com/lxzan/gws"
	"github.com/valyala/fasthttp"
)

// A library is one way to write the server.
type library struct {
	name   string
	module string // the path of its module; empty for raw TCP
	about  string
	ours   bool
	http   bool   // it can serve through net/http
	raw    bool   // it can serve a listener itself
	shouts bool   // it can broadcast
	reads  bool   // it differs from the one before only in how it reads messages, or answers them
	tls    bool   // it does TLS itself
	crowds bool   // it is measured with very many connections, too
	build  *build // the other build to measure it in, if it is not this program

	// serve serves l until the process ends, and returns at once. Every message is sent
	// back. If w is over TLS so is l, unless the library does that itself. The function
	// that serve returns, if any, sends a message to all clients.
	serve func(l net.Listener, w work) (shout func(p []byte))
}

// String returns the name of l, and tells the other build of a library from this one.
func (l library) String() string {
	if l.build != nil {
		return l.name + "@before"
	}
	return l.name
}

// gauges reports whether l is raw TCP, which can do every work and shows with each how
// noisy the machine is.
func (l library) gauges() bool { return l.module == "" }

const ourModule = "github.com/54eee7d7/websocket"

var libraries = []library{
	{name: "server", module: ourModule, ours: true, http: true, raw: true, shouts: true, crowds: true, serve: oursServer,
		about: "this library, `Server` with `OnMessage`; on a raw listener with `Adopt`"},
	{name: "server-klauspost", module: ourModule, ours: true, http: true, reads: true, serve: oursKlauspost,
		about: "this library, `Server`, with deflate by github.com/klauspost/compress"},
	{name: "append", module: ourModule, ours: true, http: true, serve: oursAppend,
		about: "this library, `Upgrade`, a loop of `AppendMessage`"},
	{name: "read", module: ourModule, ours: true, http: true, reads: true, serve: oursRead,
		about: "this library, `Upgrade`, a loop of `ReadMessage`"},
	{name: "frame", module: ourModule, ours: true, raw: true, serve: oursFrame,
		about: "this library on a raw listener, a loop of `GetFrame` and `PutFrame`"},
	{name: "gorilla", module: "github.com/gorilla/websocket", http: true, shouts: true, crowds: true, serve: gorillaRead,
		about: "`ReadMessage` and `WriteMessage`, as in its examples"},
	{name: "gorilla-reuse", module: "github.com/gorilla/websocket", http: true, reads: true, serve: gorillaReuse,
		about: "`NextReader` into a buffer that is kept, pooled write buffers"},
	{name: "coder", module: "github.com/coder/websocket", http: true, shouts: true, serve: coderRead,
		about: "`Read` and `Write`"},
	{name: "coder-reuse", module: "github.com/coder/websocket", http: true, reads: true, serve: coderReuse,
		about: "`Reader` into a buffer that is kept"},
	{name: "gws", module: "github.com/lxzan/gws", http: true, raw: true, shouts: true, crowds: true, serve: gwsServer,
		about: "its event handler"},
	{name: "gobwas", module: "github.com/gobwas/ws", http: true, raw: true, shouts: true, crowds: true, serve: gobwasUtil,
		about: "`wsutil`, as in its README; with deflate its frames and pooled codecs"},
	{name: "gobwas-bufio", module: "github.com/gobwas/ws", http: true, raw: true, reads: true, serve: gobwasFrames,
		about: "its frames, pooled buffers for both directions"},
	{name: "fasthttp", module: "github.com/fasthttp/websocket", raw: true, shouts: true, serve: fasthttpServer,
		about: "`ReadMessage` and `WriteMessage` in a fasthttp server"},
	{name: "nbio", module: "github.com/lesismal/nbio", raw: true, shouts: true, tls: true, crowds: true, serve: nbioServer,
		about: "`OnMessage` in its event loop, without blocking, behind its own HTTP and TLS"},
	{name: "raw", http: true, raw: true, shouts: true, crowds: true, serve: rawServer,
		about: "TCP without WebSocket, bytes as they come: the limit"},
}

// libraryByName returns the library of that name.
func libraryByName(name string) (library, error) {
	for _, l := range libraries {
		if l.name == name {
			return l, nil
		}
	}
	return library{}, fmt.Errorf("there is no library %q", name)
}

// With more idle connections than manyConns the variants of a library are left out, and with
// more than veryManyConns all but a few libraries, as each takes a while.
const (
	manyConns     = 10_000
	veryManyConns = 50_000
)

// can reports whether l can do w, and is to.
func (l library) can(w work) bool {
	listens := w.HTTP && l.http || !w.HTTP && l.raw
	if l.name == "server-klauspost" && !w.Deflate {
		return false // it is like server
	}
	switch w.Kind {
	case broadcast:
		return l.shouts
	case handshake:
		return listens && !l.reads
	case idle:
		return listens && (w.Conns <= manyConns || !l.reads) && (w.Conns <= veryManyConns || l.crowds)
	case sparse:
		return l.crowds
	}
	return !w.Deflate || l.name != "gobwas-bufio" // there is one way to do that
}

// maxMessage is enough for all works.
const maxMessage = 2 << 20

// clients are those that a broadcast goes to.
type clients[C any] struct {
	mu  sync.Mutex
	all []C
}

func (c *clients[C]) add(client C) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.all = append(c.all, client)
}

func (c *clients[C]) each(f func(C)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, client := range c.all {
		f(client)
	}
}

// serveHTTP serves l by net/http.
func serveHTTP(l net.Listener, h http.HandlerFunc) {
	s := &http.Server{Handler: h, ReadHeaderTimeout: 10 * time.Second}
	go func() { log.Fatal(s.Serve(l)) }()
}

// acceptEach calls f in a goroutine for every connection.
func acceptEach(l net.Listener, f func(net.Conn)) {
	go func() {
		for {
			c, err := l.Accept()
			if err != nil {
				log.Fatal(err)
			}
			go f(c)
		}
	}()
}

// serveEach calls f in a goroutine for every connection, and then closes it.
func serveEach(l net.Listener, f func(net.Conn)) {
	acceptEach(l, func(c net.Conn) {
		defer c.Close()
		f(c)
	})
}

// oursOptions returns the defaults, apart from what w asks for.
func oursOptions(w work) *ours.Options {
	o := new(ours.Options)
	if w.Deflate {
		o.Deflate = new(ours.Deflate)
	}
	return o
}

func oursServer(l net.Listener, w work) func([]byte) {
	s := &ours.Server{Options: *oursOptions(w)}
	s.OnMessage = func(c *ours.Conn, t ours.MessageType, p []byte) { c.WriteMessage(t, p) }
	if w.rawListener() {
		acceptEach(l, func(conn net.Conn) {
			c := ours.NewConn(conn, &s.Options)
			if _, err := ours.ShakeHands(c); err != nil {
				c.Close()
				return
			}
			s.Adopt(c, s.Handler)
		})
	} else {
		serveHTTP(l, s.ServeHTTP)
	}
	return func(p []byte) { s.Broadcast(ours.Binary, p) }
}

// klauspost is what gws compresses with.
var klauspost = &ours.Flate{
	NewWriter: func(w io.Writer) (ours.FlateWriter, error) { return kflate.NewWriter(w, kflate.BestSpeed) },
	NewReader: kflate.NewReader,
}

func oursKlauspost(l net.Listener, w work) func([]byte) {
	o := oursOptions(w)
	if w.Deflate {
		o.Deflate.Flate = klauspost
	}
	s := &ours.Server{Options: *o}
	s.OnMessage = func(c *ours.Conn, t ours.MessageType, p []byte) { c.WriteMessage(t, p) }
	serveHTTP(l, s.ServeHTTP)
	return nil
}

func oursAppend(l net.Listener, w work) func([]byte) {
	o := oursOptions(w)
	serveHTTP(l, func(w http.ResponseWriter, r *http.Request) {
		c, err := ours.Upgrade(w, r, o)
		if err != nil {
			return
		}
		defer c.Close()
		var t ours.MessageType
		var buf []byte
		for err == nil {
			if t, buf, err = c.AppendMessage(buf[:0]); err == nil {
				err = c.WriteMessage(t, buf)
			}
		}
	})
	return nil
}

func oursRead(l net.Listener, w work) func([]byte) {
	o := oursOptions(w)
	serveHTTP(l, func(w http.ResponseWriter, r *http.Request) {
		c, err := ours.Upgrade(w, r, o)
		if err != nil {
			return
		}
		defer c.Close()
		for err == nil {
			var t ours.MessageType
			var p []byte
			if t, p, err = c.ReadMessage(); err == nil {
				err = c.WriteMessage(t, p)
			}
		}
	})
	return nil
}

func oursFrame(l net.Listener, w work) func([]byte) {
	o := oursOptions(w)
	serveEach(l, func(c net.Conn) {
		h := ours.NewConn(c, o)
		defer h.Close()
		_, err := ours.ShakeHands(h)
		for err == nil {
			var p []byte
			if p, err = ours.GetFrame(h); err == nil {
				err = ours.PutFrame(h, p)
			}
		}
	})
	return nil
}

// serveGorilla calls loop for every connection.
func serveGorilla(l net.Listener, w work, pool gorilla.BufferPool, loop func(*gorilla.Conn)) func([]byte) {
	var all clients[*gorilla.Conn]
	u := gorilla.Upgrader{EnableCompression: w.Deflate, WriteBufferPool: pool}
	serveHTTP(l, func(w http.ResponseWriter, r *http.Request) {
		c, err := u.Upgrade(w, r, nil)
		if err != nil {
			return
		}
		defer c.Close()
		all.add(c)
		loop(c)
	})
	return func(p []byte) {
		m, err := gorilla.NewPreparedMessage(gorilla.BinaryMessage, p)
		if err != nil {
			log.Fatal(err)
		}
		all.each(func(c *gorilla.Conn) { c.WritePreparedMessage(m) })
	}
}

func gorillaRead(l net.Listener, w work) func([]byte) {
	return serveGorilla(l, w, nil, func(c *gorilla.Conn) {
		for {
			t, p, err := c.ReadMessage()
			if err != nil || c.WriteMessage(t, p) != nil {
				return
			}
		}
	})
}

func gorillaReuse(l net.Listener, w work) func([]byte) {
	return serveGorilla(l, w, new(sync.Pool), func(c *gorilla.Conn) {
		var buf bytes.Buffer
		for {
			t, r, err := c.NextReader()
			if err != nil {
				return
			}
			buf.Reset()
			if _, err := buf.ReadFrom(r); err != nil || c.WriteMessage(t, buf.Bytes()) != nil {
				return
			}
		}
	})
}

// serveCoder calls loop for every connection.
func serveCoder(l net.Listener, w work, loop func(*websocket.Conn)) func([]byte) {
	var all clients[*websocket.Conn]
	o := &websocket.AcceptOptions{CompressionMode: websocket.CompressionDisabled}
	if w.Deflate {
		o.CompressionMode = websocket.CompressionNoContextTakeover
	}
	serveHTTP(l, func(w http.ResponseWriter, r *http.Request) {
		c, err := websocket.Accept(w, r, o)
		if err != nil {
			return
		}
		defer c.CloseNow()
		c.SetReadLimit(maxMessage)
		all.add(c)
		loop(c)
	})
	return func(p []byte) {
		all.each(func(c *websocket.Conn) { c.Write(context.Background(), websocket.MessageBinary, p) })
	}
}

func coderRead(l net.Listener, w work) func([]byte) {
	return serveCoder(l, w, func(c *websocket.Conn) {
		ctx := context.Background()
		for {
			t, p, err := c.Read(ctx)
			if err != nil || c.Write(ctx, t, p) != nil {
				return
			}
		}
	})
}

func coderReuse(l net.Listener, w work) func([]byte) {
	return serveCoder(l, w, func(c *websocket.Conn) {
		ctx := context.Background()
		var buf bytes.Buffer
		for {
			t, r, err := c.Reader(ctx)
			if err != nil {
				return
			}
			buf.Reset()
			if _, err := buf.ReadFrom(r); err != nil || c.Write(ctx, t, buf.Bytes()) != nil {
				return
			}
		}
	})
}

// gwsHandler sends messages back.
type gwsHandler struct {
	gws.BuiltinEventHandler
	all clients[*gws.Conn]
}

func (h *gwsHandler) OnOpen(c *gws.Conn) { h.all.add(c) }

func (h *gwsHandler) OnMessage(c *gws.Conn, m *gws.Message) {
	defer m.Close()
	c.WriteMessage(m.Opcode, m.Bytes())
}

func gwsServer(l net.Listener, w work) func([]byte) {
	h := new(gwsHandler)
	o := &gws.ServerOption{PermessageDeflate: gws.PermessageDeflate{Enabled: w.Deflate}}
	if w.HTTP {
		u := gws.NewUpgrader(h, o)
		serveHTTP(l, func(w http.ResponseWriter, r *http.Request) {
			if c, err := u.Upgrade(w, r); err == nil {
				go c.ReadLoop() // so that the memory of the request is freed
			}
		})
	} else {
		go func() { log.Fatal(gws.NewServer(h, o).RunListener(l)) }()
	}
	return func(p []byte) {
		b := gws.NewBroadcaster(gws.OpcodeBinary, p)
		defer b.Close()
		h.all.each(func(c *gws.Conn) { b.Broadcast(c) })
	}
}

// serveGobwas calls loop for every connection.
func serveGobwas(l net.Listener, w work, loop func(net.Conn)) func([]byte) {
	var all clients[net.Conn]
	serve := func(c net.Conn) {
		all.add(c)
		loop(c)
	}
	if w.HTTP {
		serveHTTP(l, func(w http.ResponseWriter, r *http.Request) {
			c, _, _, err := ws.UpgradeHTTP(r, w)
			if err != nil {
				return
			}
			go func() { // so that the memory of the request is freed
				defer c.Close()
				serve(c)
			}()
		})
	} else {
		serveEach(l, func(c net.Conn) {
			var u ws.Upgrader
			if w.Deflate {
				e := wsflate.Extension{Parameters: wsflate.DefaultParameters}
				u.Negotiate = func(o httphead.Option) (httphead.Option, error) { return e.Negotiate(o) }
			}
			if _, err := u.Upgrade(c); err == nil {
				serve(c)
			}
		})
	}
	return func(p []byte) {
		frame := ws.MustCompileFrame(ws.NewBinaryFrame(p))
		all.each(func(c net.Conn) { c.Write(frame) })
	}
}

func gobwasUtil(l net.Listener, w work) func([]byte) {
	if w.Deflate {
		return serveGobwas(l, w, gobwasDeflate)
	}
	return serveGobwas(l, w, func(c net.Conn) {
		for {
			p, op, err := wsutil.ReadClientData(c)
			if err != nil || wsutil.WriteServerMessage(c, op, p) != nil {
				return
			}
		}
	})
}

// bufioReaders and bufioWriters hold the buffers of connections that have ended.
var (
	bufioReaders = sync.Pool{New: func() any { return bufio.NewReader(nil) }}
	bufioWriters = sync.Pool{New: func() any { return bufio.NewWriter(nil) }}
)

func gobwasFrames(l net.Listener, w work) func([]byte) {
	return serveGobwas(l, w, func(c net.Conn) {
		r, out := bufioReaders.Get().(*bufio.Reader), bufioWriters.Get().(*bufio.Writer)
		defer bufioReaders.Put(r)
		defer bufioWriters.Put(out)
		r.Reset(c)
		out.Reset(c)
		var p []byte
		for {
			h, err := readGobwas(r, &p)
			if err != nil || ws.WriteFrame(out, ws.NewFrame(h.OpCode, h.Fin, p)) != nil || out.Flush() != nil {
				return
			}
		}
	})
}

// readGobwas reads a frame, and puts its payload into *p.
func readGobwas(r *bufio.Reader, p *[]byte) (ws.Header, error) {
	h, err := ws.ReadHeader(r)
	if err != nil {
		return h, err
	}
	if h.Length > maxMessage || h.OpCode.IsControl() {
		return h, io.ErrUnexpectedEOF
	}
	*p = slices.Grow((*p)[:0], int(h.Length))[:h.Length]
	if _, err := io.ReadFull(r, *p); err != nil {
		return h, err
	}
	ws.Cipher(*p, h.Mask, 0)
	return h, nil
}

// A gobwasCodec compresses and inflates messages. It is expensive to make and kept in a
// pool while no message is at hand.
type gobwasCodec struct {
	in      bytes.Reader
	out     bytes.Buffer
	inflate *wsflate.Reader
	deflate *wsflate.Writer
}

// A gobwasInflater can be used for one message after another.
type gobwasInflater struct{ io.ReadCloser }

func (i gobwasInflater) Reset(r io.Reader) { i.ReadCloser.(flate.Resetter).Reset(r, nil) }

var gobwasCodecs = sync.Pool{New: func() any {
	c := new(gobwasCodec)
	c.inflate = wsflate.NewReader(&c.in, func(r io.Reader) wsflate.Decompressor {
		return gobwasInflater{flate.NewReader(r)}
	})
	c.deflate = wsflate.NewWriter(&c.out, func(w io.Writer) wsflate.Compressor {
		d, _ := flate.NewWriter(w, flate.BestSpeed) // the level exists
		return d
	})
	return c
}}

func gobwasDeflate(c net.Conn) {
	r := bufioReaders.Get().(*bufio.Reader)
	defer bufioReaders.Put(r)
	r.Reset(c)
	var p, message []byte
	for {
		h, err := readGobwas(r, &p)
		if err != nil {
			return
		}
		codec := gobwasCodecs.Get().(*gobwasCodec)
		message, err = codec.echo(c, h, p, message)
		gobwasCodecs.Put(codec)
		if err != nil {
			return
		}
	}
}

// echo inflates p into message, compresses that again and sends it.
func (c *gobwasCodec) echo(w io.Writer, h ws.Header, p, message []byte) ([]byte, error) {
	c.in.Reset(p)
	c.inflate.Reset(&c.in)
	b := bytes.NewBuffer(message[:0])
	if _, err := b.ReadFrom(c.inflate); err != nil {
		return nil, err
	}
	message = b.Bytes()

	c.out.Reset()
	c.deflate.Reset(&c.out)
	if _, err := c.deflate.Write(message); err != nil {
		return nil, err
	}
	if err := c.deflate.Flush(); err != nil {
		return nil, err
	}
	frame := ws.NewFrame(h.OpCode, true, c.out.Bytes())
	frame.Header.Rsv = ws.Rsv(true, false, false)
	out := bufioWriters.Get().(*bufio.Writer)
	defer bufioWriters.Put(out)
	out.Reset(w)
	if err := ws.WriteFrame(out, frame); err != nil {
		return nil, err
	}
	return message, out.Flush()
}

func fasthttpServer(l net.Listener, w work) func([]byte) {
	var all clients[*fastws.Conn]
	u := fastws.FastHTTPUpgrader{EnableCompression: w.Deflate}
	s := &fasthttp.Server{Handler: func(ctx *fasthttp.RequestCtx) {
		u.Upgrade(ctx, func(c *fastws.Conn) {
			all.add(c)
			for {
				t, p, err := c.ReadMessage()
				if err != nil || c.WriteMessage(t, p) != nil {
					return
				}
			}
		})
	}}
	go func() { log.Fatal(s.Serve(l)) }()
	return func(p []byte) {
		m, err := fastws.NewPreparedMessage(fastws.BinaryMessage, p)
		if err != nil {
			log.Fatal(err)
		}
		all.each(func(c *fastws.Conn) { c.WritePreparedMessage(m) })
	}
}

// nbioServer has nbio wait for all connections in its event loop.
func nbioServer(l net.Listener, w work) func([]byte) {
	var all clients[*nbws.Conn]
	u := nbws.NewUpgrader()
	u.EnableCompression(w.Deflate) // at level 1, and without context takeover
	u.OnOpen(all.add)
	u.OnMessage(func(c *nbws.Conn, t nbws.MessageType, p []byte) { c.WriteMessage(t, p) })
	config := nbhttp.Config{
		Network:                      "tcp",
		IOMod:                        nbhttp.IOModNonBlocking,
		ReleaseWebsocketPayload:      true,
		MaxWebsocketFramePayloadSize: maxMessage, // the load expects a message in one frame
		Listen:                       func(string, string) (net.Listener, error) { return l, nil },
		Handler: http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			if _, err := u.Upgrade(w, r, nil); err != nil {
				log.Print(err)
			}
		}),
	}
	addresses := []string{l.Addr().String()}
	if w.TLS {
		c, err := serverTLS()
		if err != nil {
			log.Fatal(err)
		}
		own := c.Certificates[0]
		config.AddrsTLS = addresses
		config.TLSConfig = &nbtls.Config{
			Certificates: []nbtls.Certificate{{Certificate: own.Certificate, PrivateKey: own.PrivateKey}},
			MinVersion:   nbtls.VersionTLS13,
		}
	} else {
		config.Addrs = addresses
	}
	u.Engine = nbhttp.NewEngine(config)
	if err := u.Engine.Start(); err != nil {
		log.Fatal(err)
	}
	return func(p []byte) {
		all.each(func(c *nbws.Conn) { c.WriteMessage(nbws.BinaryMessage, p) })
	}
}

// freeNbio frees the queues of the engine that nbio makes when the program starts. They are a
// megabyte, for which the collector would run more often, whatever library is measured.
func freeNbio() {
	logging.SetLevel(logging.LevelError)
	logging.Output = os.Stderr            // answers go to the standard output
	nbws.DefaultEngine.Engine.NPoller = 0 // there are none to be stopped, as it has not been started
	nbws.DefaultEngine.Stop()
	nbws.DefaultEngine = nil
}

// rawServer answers the head of the request as a WebSocket server does. What follows it
// sends back as it is.
func rawServer(l net.Listener, w work) func([]byte) {
	var all clients[net.Conn]
	size := min(max(4<<10, w.InFlight*(w.Size+16)), 256<<10)
	serveEach(l, func(c net.Conn) {
		buf := make([]byte, size)
		for n := 0; !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")); {
			k, err := c.Read(buf[n:])
			if err != nil {
				return
			}
			n += k
		}
		if _, err := io.WriteString(c, rawResponse); err != nil {
			return
		}
		all.add(c)
		for {
			n, err := c.Read(buf)
			if err != nil {
				return
			}
			if _, err := c.Write(buf[:n]); err != nil {
				return
			}
		}
	})
	return func(p []byte) {
		frame := serverFrame(p)
		all.each(func(c net.Conn) { c.Write(frame) })
	}
}
