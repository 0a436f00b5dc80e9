package main

import (
	"bufio"
	"bytes"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// counts is what the load has done.
type counts struct {
	Messages int64 // messages that have come back, or handshakes
	Wire     int64 // payload bytes that have come back, as they were sent
	Elapsed  time.Duration
	P50, P99 time.Duration // from the first byte of a batch that is sent to the last that comes back
}

// What the load can be asked.
const (
	askRun   = "run"   // for echoes, or for handshakes, for some time
	askAwait = "await" // for the arrival of N broadcasts at all clients, counted from the first
	askTouch = "touch" // for one more message on every Nth connection
)

const (
	// request is what a browser sends, with the scheme of its page and what is to follow
	// permessage-deflate.
	request = "GET / HTTP/1.1\r\n" +
		"Host: localhost\r\n" +
		"Connection: Upgrade\r\n" +
		"Pragma: no-cache\r\n" +
		"Cache-Control: no-cache\r\n" +
		"User-Agent: Mozilla/5.0 (X11; Linux x86_64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/142.0.0.0 Safari/537.36\r\n" +
		"Upgrade: websocket\r\n" +
		"Origin: %s://localhost\r\n" +
		"Sec-WebSocket-Version: 13\r\n" +
		"Accept-Encoding: gzip, deflate, br, zstd\r\n" +
		"Accept-Language: en-US,en;q=0.9\r\n" +
		"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n" +
		"Sec-WebSocket-Extensions: permessage-deflate; %s\r\n\r\n"
	accept      = "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=" // what the key asks for
	rawResponse = "HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: " + accept + "\r\n\r\n"
)

// safeBatch is how many bytes the kernel takes of a batch while the server does not read.
// Where there are more, a client writes and reads at the same time.
const safeBatch = 32 << 10

// perAddress is how many clients have the same address. It has to be well below the number of
// ports that the kernel gives away.
const perAddress = 10_000

// source returns the address from which client i connects, or nil for the usual one.
func source(i int) *net.TCPAddr {
	n := i / perAddress
	if n == 0 {
		return nil
	}
	return &net.TCPAddr{IP: net.IPv4(127, 0, byte(n>>8), byte(n)+1)}
}

// atOnce is how many clients connect, or are touched, at the same time.
const atOnce = 32

// limit bounds what a client waits for.
const limit = 30 * time.Second

// A load is all clients of a server.
type load struct {
	job
	request []byte
	batch   []byte // some frames, or all that are sent at once
	frames  int    // in batch
	frame   int    // length of one
	want    []byte // one frame that comes back; with compression its payload may differ
	clients []*client
	times   histogram

	received atomic.Int64 // bytes of broadcasts
	target   atomic.Int64 // how many of them are awaited
	reached  chan struct{}
	failed   chan error
}

// A client is one connection.
type client struct {
	net.Conn
	buf    []byte
	reader *bufio.Reader // with compression
	wire   int64
}

// loadMain is the process of the load. It connects, tries whether messages come back as
// they should, and does what it is asked on its standard input until that ends.
func loadMain(j job) error {
	l := &load{job: j, reached: make(chan struct{}, 1), failed: make(chan error, 1)}
	l.request = requestFor(j.Work)
	if j.Work.Kind != handshake {
		if err := l.prepare(); err != nil {
			return err
		}
		if err := l.connect(); err != nil {
			return err
		}
	}
	if err := reply(answer{}); err != nil {
		return err
	}
	return eachQuestion(func(q question) (a answer) {
		var err error
		switch {
		case q.Do == askAwait:
			err = l.await(q.N)
		case q.Do == askTouch:
			a.Counts, err = l.touch(q.N)
		case q.Do != askRun:
			err = fmt.Errorf("a load does not know how to %q", q.Do)
		case j.Work.Kind == handshake:
			a.Counts, err = l.run(q.Duration, j.Work.Conns, l.handshakes)
		default:
			a.Counts, err = l.run(q.Duration, j.Work.active(), l.echoes)
		}
		if err != nil {
			a.Error = err.Error()
		}
		return a
	})
}

// requestFor returns the request that opens a connection.
func requestFor(w work) []byte {
	scheme, parameters := "http", "client_max_window_bits"
	if w.TLS {
		scheme = "https"
	}
	if w.Deflate {
		parameters = "server_no_context_takeover; client_no_context_takeover"
	}
	return fmt.Appendf(nil, request, scheme, parameters)
}

// prepare makes all that is sent.
func (l *load) prepare() error {
	w := l.Work
	p, first := payload(w.Size), byte(finBinary)
	l.want = serverFrame(p)
	if w.Deflate {
		var err error
		if p, err = deflated(p); err != nil {
			return err
		}
		first |= compressed
	}
	frame := clientFrame(p, first)
	if l.Library == "raw" {
		l.want = frame
	}
	l.frame = len(frame)
	l.frames = min(w.InFlight, max(1, safeBatch/len(frame)))
	l.batch = bytes.Repeat(frame, l.frames)
	return nil
}

// each calls f with all numbers below n, some at a time.
func each(n int, f func(i int) error) error {
	errs := make(chan error, atOnce)
	var next atomic.Int64
	for range cap(errs) {
		go func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					errs <- nil
					return
				}
				if err := f(i); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	var err error
	for range cap(errs) {
		err = errors.Join(err, <-errs)
	}
	return err
}

// connect makes all connections.
func (l *load) connect() error {
	l.clients = make([]*client, l.Work.Conns)
	err := each(len(l.clients), func(i int) (err error) {
		l.clients[i], err = l.open(i)
		return err
	})
	if err != nil {
		return err
	}
	if l.Work.Kind == broadcast {
		for _, c := range l.clients {
			go l.listen(c)
		}
	}
	return nil
}

// open makes the connection of client i and checks a message that comes back.
func (l *load) open(i int) (*client, error) {
	w := l.Work
	conn, err := l.shake(i)
	if err != nil {
		return nil, err
	}
	c := &client{Conn: conn}
	if w.Deflate {
		c.reader = bufio.NewReaderSize(conn, 16<<10)
	}
	if !w.Deflate {
		// All that is in flight in one read, if that does not take too much memory.
		c.buf = make([]byte, max(min(len(l.want)*w.InFlight, max(64<<10, 16<<20/w.Conns)), len(l.want)))
	}
	if _, err := c.Write(l.batch[:l.frame]); err != nil {
		return nil, err
	}
	return c, l.check(c)
}

// check reads a message and compares it with what it has to be.
func (l *load) check(c *client) error {
	if !l.Work.Deflate {
		got := c.buf[:len(l.want)]
		if _, err := io.ReadFull(c, got); err != nil {
			return fmt.Errorf("the first message does not come back: %w", err)
		}
		if !sameFrame(got, l.want) {
			return fmt.Errorf("the first message comes back changed")
		}
		return nil
	}
	var b bytes.Buffer
	first, _, err := readMessage(c.reader, &b)
	if err != nil {
		return fmt.Errorf("the first message does not come back: %w", err)
	}
	if first&compressed == 0 {
		return errors.New("messages come back without compression")
	}
	if l.Library == "raw" {
		return nil
	}
	p, err := inflated(b.Bytes(), l.Work.Size)
	if err != nil {
		return err
	}
	if !bytes.Equal(p, payload(l.Work.Size)) {
		return errors.New("the first message comes back changed")
	}
	return nil
}

// shake connects client i and does the opening handshake.
func (l *load) shake(i int) (net.Conn, error) {
	d := net.Dialer{Timeout: limit}
	if from := source(i); from != nil {
		d.LocalAddr = from
	}
	conn, err := d.Dial("tcp", l.Address)
	if err != nil {
		return nil, err
	}
	// It ends with a reset, which leaves nothing behind in the kernel, or that would run out
	// of ports.
	conn.(*net.TCPConn).SetLinger(0)
	conn.SetDeadline(time.Now().Add(limit))
	if l.Work.TLS {
		// The server is of this program, and on this machine.
		conn = tls.Client(conn, &tls.Config{InsecureSkipVerify: true})
	}
	if _, err := conn.Write(l.request); err != nil {
		conn.Close()
		return nil, err
	}
	var buf [2048]byte
	n := 0
	for !bytes.HasSuffix(buf[:n], []byte("\r\n\r\n")) {
		k, err := conn.Read(buf[n:])
		if err != nil {
			conn.Close()
			return nil, fmt.Errorf("in the response to the handshake: %w", err)
		}
		n += k
	}
	response := buf[:n]
	if !bytes.HasPrefix(response, []byte("HTTP/1.1 101 ")) || !bytes.Contains(response, []byte(accept)) {
		conn.Close()
		line, _, _ := strings.Cut(string(response), "\r\n")
		return nil, fmt.Errorf("the server refuses: %s", line)
	}
	return conn, nil
}

// run has f called in as many goroutines as there are clients, until the time is over,
// and returns what they have done together.
func (l *load) run(d time.Duration, n int, f func(i int, end time.Time) (messages, wire int64, err error)) (counts, error) {
	l.times.reset()
	var (
		wg             sync.WaitGroup
		messages, wire atomic.Int64
		once           sync.Once
		failure        error
	)
	begin := time.Now()
	end := begin.Add(d)
	for i := range n {
		wg.Go(func() {
			m, b, err := f(i, end)
			messages.Add(m)
			wire.Add(b)
			if err != nil {
				once.Do(func() { failure = err })
			}
		})
	}
	wg.Wait()
	return counts{
		Messages: messages.Load(),
		Wire:     wire.Load(),
		Elapsed:  time.Since(begin),
		P50:      l.times.quantile(0.50),
		P99:      l.times.quantile(0.99),
	}, failure
}

// touch has every nth client send one more message and read it, some at a time. Pings may have
// come since the last.
func (l *load) touch(n int) (counts, error) {
	if n < 1 {
		return counts{}, fmt.Errorf("there is no client number %d", n)
	}
	l.times.reset()
	some := (len(l.clients) + n - 1) / n
	begin := time.Now()
	err := each(some, func(i int) error {
		c := l.clients[i*n]
		begin := time.Now()
		c.SetDeadline(begin.Add(limit))
		if _, err := c.Write(l.batch[:l.frame]); err != nil {
			return err
		}
		if _, _, err := readMessage(bufio.NewReaderSize(c, 256), nil); err != nil {
			return fmt.Errorf("a connection does not live any more: %w", err)
		}
		l.times.add(time.Since(begin))
		return nil
	})
	return counts{
		Messages: int64(some),
		Elapsed:  time.Since(begin),
		P50:      l.times.quantile(0.50),
		P99:      l.times.quantile(0.99),
	}, err
}

// echoes has the active client i send messages, and read what comes back, until end.
func (l *load) echoes(i int, end time.Time) (messages, wire int64, err error) {
	c := l.clients[i*l.Work.step()]
	c.SetDeadline(end.Add(limit))
	write := func() error { return l.write(c) }
	if l.frame*l.Work.InFlight > safeBatch {
		begin, errs := make(chan struct{}), make(chan error, 1)
		defer close(begin)
		go func() {
			for range begin {
				if err := l.write(c); err != nil {
					c.Close() // ends the read as well
					errs <- err
					return
				}
			}
		}()
		write = func() error {
			select {
			case begin <- struct{}{}:
				return nil
			case err := <-errs:
				return err
			}
		}
	}
	before := c.wire
	for {
		begin := time.Now()
		if begin.After(end) {
			return messages, c.wire - before, nil
		}
		if err := write(); err != nil {
			return messages, c.wire - before, err
		}
		if err := l.read(c); err != nil {
			return messages, c.wire - before, err
		}
		l.times.add(time.Since(begin))
		messages += int64(l.Work.InFlight)
	}
}

// write sends all messages that are in flight at once.
func (l *load) write(c *client) error {
	for left := l.Work.InFlight; left > 0; left -= l.frames {
		if _, err := c.Write(l.batch[:min(left, l.frames)*l.frame]); err != nil {
			return err
		}
	}
	return nil
}

// read reads as many messages and checks their lengths.
func (l *load) read(c *client) error {
	if l.Work.Deflate {
		for range l.Work.InFlight {
			_, size, err := readMessage(c.reader, nil)
			if err != nil {
				return err
			}
			c.wire += int64(size)
		}
		return nil
	}
	left := len(l.want) * l.Work.InFlight
	c.wire += int64(l.Work.Size * l.Work.InFlight)
	if left <= len(c.buf) {
		if _, err := io.ReadFull(c, c.buf[:left]); err != nil {
			return err
		}
		n := len(l.want) - l.Work.Size // length of the header
		for got := c.buf[:left]; len(got) > 0; got = got[len(l.want):] {
			if !sameFrame(got[:n], l.want[:n]) {
				return errors.New("a message comes back with another length")
			}
		}
		return nil
	}
	for left > 0 {
		k, err := c.Read(c.buf[:min(left, len(c.buf))])
		if err != nil {
			return err
		}
		left -= k
	}
	return nil
}

// handshakes opens connections one after another, and drops them, until end.
func (l *load) handshakes(_ int, end time.Time) (n, wire int64, err error) {
	for {
		begin := time.Now()
		if begin.After(end) {
			return n, 0, nil
		}
		c, err := l.shake(0)
		if err != nil {
			return n, 0, err
		}
		l.times.add(time.Since(begin))
		n++
		c.Close()
	}
}

// listen counts the bytes of broadcasts. It looks at the contents of the first.
func (l *load) listen(c *client) {
	c.SetDeadline(time.Time{})
	want := serverFrame(payload(l.Work.Size))
	c.buf = c.buf[:len(want)]
	if _, err := io.ReadFull(c, c.buf); err != nil {
		l.fail(err)
		return
	}
	if !sameFrame(c.buf, want) {
		l.fail(errors.New("the first broadcast arrives changed"))
		return
	}
	l.count(len(c.buf))
	for {
		n, err := c.Read(c.buf)
		if err != nil {
			l.fail(err)
			return
		}
		l.count(n)
	}
}

func (l *load) count(n int) {
	if sum := l.received.Add(int64(n)); sum == l.target.Load() {
		select {
		case l.reached <- struct{}{}:
		default:
		}
	}
}

func (l *load) fail(err error) {
	select {
	case l.failed <- err:
	default:
	}
}

// await waits until n broadcasts have arrived at all clients since they were connected.
func (l *load) await(n int) error {
	target := int64(n) * int64(len(serverFrame(payload(l.Work.Size)))) * int64(len(l.clients))
	l.target.Store(target)
	timeout := time.After(limit)
	for l.received.Load() < target {
		select {
		case <-l.reached:
		case err := <-l.failed:
			return fmt.Errorf("a broadcast does not arrive: %w", err)
		case <-timeout:
			return fmt.Errorf("broadcasts do not arrive within %s", limit)
		}
	}
	if l.received.Load() > target {
		return errors.New("more arrives than was sent")
	}
	return nil
}
