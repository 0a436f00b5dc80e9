package websocket

import (
	"bufio"
	"bytes"
	"cmp"
	"compress/flate"
	"compress/gzip"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
)

// A mood says how the writers and readers of a Flate go wrong, if they are to.
type mood struct {
	fault   atomic.Value // string
	writers atomic.Int32 // that have been made
	readers atomic.Int32
}

// The faults. Those of writers come first.
const (
	writeFails   = "Write fails"
	writePanics  = "Write panics"
	flushFails   = "Flush fails"
	flushPanics  = "Flush panics"
	flushForgets = "Flush writes nothing"
	resetPanics  = "Reset panics"

	readPanics        = "Read panics"
	readsTooMuch      = "Read returns more than there is room for"
	readsLess         = "Read returns less than nothing"
	readerFails       = "Reset of a reader fails"
	readerResetPanics = "Reset of a reader panics"
)

var errMood = errors.New("out of order")

// is reports whether this is how they go wrong now.
func (m *mood) is(fault string) bool { return m.fault.Load() == fault }

func (m *mood) flate() *Flate {
	return &Flate{
		NewWriter: func(w io.Writer) (FlateWriter, error) {
			m.writers.Add(1)
			z, err := flate.NewWriter(w, flate.BestSpeed)
			return moodyWriter{z, m}, err
		},
		NewReader: func(r io.Reader) io.ReadCloser {
			m.readers.Add(1)
			return moodyReader{flate.NewReader(r), m}
		},
	}
}

type moodyWriter struct {
	*flate.Writer
	mood *mood
}

func (w moodyWriter) Write(p []byte) (int, error) {
	switch {
	case w.mood.is(writeFails):
		return 0, errMood
	case w.mood.is(writePanics):
		panic(errMood)
	}
	return w.Writer.Write(p)
}

func (w moodyWriter) Flush() error {
	switch {
	case w.mood.is(flushFails):
		return errMood
	case w.mood.is(flushPanics):
		panic(errMood)
	case w.mood.is(flushForgets):
		return nil
	}
	return w.Writer.Flush()
}

func (w moodyWriter) Reset(out io.Writer) {
	if w.mood.is(resetPanics) {
		panic(errMood)
	}
	w.Writer.Reset(out)
}

type moodyReader struct {
	io.ReadCloser
	mood *mood
}

func (r moodyReader) Read(p []byte) (int, error) {
	switch {
	case r.mood.is(readPanics):
		panic(errMood)
	case r.mood.is(readsTooMuch):
		return len(p) + 1, nil
	case r.mood.is(readsLess):
		return -1, nil
	}
	return r.ReadCloser.Read(p)
}

func (r moodyReader) Reset(in io.Reader, dict []byte) error {
	switch {
	case r.mood.is(readerFails):
		return errMood
	case r.mood.is(readerResetPanics):
		panic(errMood)
	}
	return r.ReadCloser.(flate.Resetter).Reset(in, dict)
}

// ownFlates returns those that are a user's own in a part only, or in all.
func ownFlates() map[string]*Flate {
	return map[string]*Flate{
		"writer": {NewWriter: new(mood).flate().NewWriter},
		"reader": {NewReader: flate.NewReader},
		"both":   new(mood).flate(),
		"none":   {},
		"dict":   {NewWriter: newPrimedWriter},
	}
}

// A primedWriter is a FlateWriter with ResetDict.
type primedWriter struct {
	*flate.Writer
	out io.Writer
}

func newPrimedWriter(w io.Writer) (FlateWriter, error) {
	p := &primedWriter{out: w}
	p.Writer, _ = flate.NewWriter(writeFunc(func(b []byte) (int, error) { return p.out.Write(b) }), 6)
	return p, nil
}

func (w *primedWriter) Reset(io.Writer) { panic("ResetDict is to be called") }

func (w *primedWriter) ResetDict(out io.Writer, dict []byte) {
	w.out = io.Discard
	w.Writer.Reset(writeFunc(func(b []byte) (int, error) { return w.out.Write(b) }))
	w.Write(dict)
	w.Flush()
	w.out = out
}

// TestFlate sends messages between sides of which one or both have a Flate of their own.
func TestFlate(t *testing.T) {
	for name, f := range ownFlates() {
		for _, takeover := range []bool{false, true} {
			for _, bits := range []int{0, 8, 9, 12} {
				d := Deflate{ContextTakeover: takeover, WindowBits: bits, Threshold: -1}
				own := d
				own.Flate = f
				for _, o := range [][2]*Deflate{{&own, &d}, {&d, &own}, {&own, &own}} {
					t.Run(fmt.Sprintf("%s/takeover=%t/bits=%d/%t,%t", name, takeover, bits, o[0] == &own, o[1] == &own), func(t *testing.T) {
						server, client := tappedPipe(t, &Options{Deflate: o[0]}, &Options{Deflate: o[1]}, "")
						for _, pair := range [][2]*end{{server, client}, {client, server}} {
							from, to := pair[0], pair[1]
							for i, size := range []int{1000, 0, 300, 100000, 1000} {
								p := sampleText(size, uint64(i%2))
								w := i % len(deflateWriters)
								done := goErr(func() error { return deflateWriters[w](from.Conn, Text, p) })
								if _, got, err := deflateReaders[i%len(deflateReaders)](to.Conn); err != nil || !bytes.Equal(got, p) {
									t.Fatalf("message %d: %d bytes instead of %d, %v", i, len(got), size, err)
								}
								if err := wait(t, done); err != nil {
									t.Fatal(err)
								}
								from.checkSent(t, Text, p, w != 0)
							}
						}
					})
				}
			}
		}
	}
}

// TestFlatePool checks that connections share the writers and readers of a Flate, although
// each has options of its own.
func TestFlatePool(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget under the race detector")
	}
	const conns = 100
	var m mood
	f := m.flate()
	p := sampleText(1000, 1)
	for range conns {
		o := &Options{Deflate: &Deflate{Flate: f}}
		server, client := deflatePair(t, o, o)
		done := goErr(func() error { return client.WriteMessage(Text, p) })
		expectMessages(t, server, string(p))
		if err := wait(t, done); err != nil {
			t.Fatal(err)
		}
		server.CloseNow()
		client.CloseNow()
	}
	// A garbage collection may empty the pools now and then.
	if w, r := m.writers.Load(), m.readers.Load(); w > conns/2 || r > conns/2 {
		t.Errorf("%d connections have needed %d writers and %d readers", conns, w, r)
	}
}

// TestFlateAllocations checks that a Flate of a user's own does not allocate for every message.
func TestFlateAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget under the race detector")
	}
	for name, f := range ownFlates() {
		for _, takeover := range []bool{false, true} {
			d := &Deflate{Flate: f, ContextTakeover: takeover}
			c := tapeDeflate(struct {
				io.Reader
				io.Writer
			}{nil, io.Discard}, d, false)
			p := sampleText(1000, 1)
			n := testing.AllocsPerRun(20, func() {
				if err := c.WriteMessage(Text, p); err != nil {
					t.Fatal(err)
				}
			})
			if n > 0 && name != "dict" { // whose own they are
				t.Errorf("%s, takeover=%t: %v allocations", name, takeover, n)
			}
		}
	}
}

// reluctant is a flate.Writer whose Reset keeps what it has compressed.
type reluctant struct {
	*flate.Writer
	w io.Writer
}

func (r *reluctant) Reset(w io.Writer) { r.w = w }

// greedy is a reader of DEFLATE that takes more of its input than it needs.
type greedy struct{ io.ReadCloser }

func (g greedy) Reset(r io.Reader, dict []byte) error {
	return g.ReadCloser.(flate.Resetter).Reset(bufio.NewReader(struct{ io.Reader }{r}), dict)
}

// TestFlateUnfit has opening handshakes fail, on either side and before anything is sent, because
// the functions of a Flate do not fit.
func TestFlateUnfit(t *testing.T) {
	newWriter := new(mood).flate().NewWriter
	for _, tt := range []struct {
		name string
		f    *Flate
		want string // in the error
	}{
		{"an error", &Flate{NewWriter: func(io.Writer) (FlateWriter, error) { return nil, errMood }}, errMood.Error()},
		{"a level that there is not", &Flate{NewWriter: func(w io.Writer) (FlateWriter, error) { return flate.NewWriter(w, 77) }}, "level"},
		{"a panic", &Flate{NewWriter: func(io.Writer) (FlateWriter, error) { panic("alas") }}, "alas"},
		{"no writer", &Flate{NewWriter: func(io.Writer) (FlateWriter, error) { return nil, nil }}, "NewWriter returned nil"},
		{"a nil pointer", &Flate{NewWriter: func(io.Writer) (FlateWriter, error) { return (*flate.Writer)(nil), nil }}, "nil pointer"},
		{"gzip", &Flate{NewWriter: func(w io.Writer) (FlateWriter, error) { return gzip.NewWriter(w), nil }}, "does not inflate"},
		{"no flush", &Flate{NewWriter: func(w io.Writer) (FlateWriter, error) {
			z, err := newWriter(w)
			m := new(mood)
			m.fault.Store(flushForgets)
			return moodyWriter{z.(moodyWriter).Writer, m}, err
		}}, "does not flush"},
		{"a reset that forgets nothing", &Flate{NewWriter: func(w io.Writer) (FlateWriter, error) {
			r := &reluctant{w: w}
			var err error
			r.Writer, err = flate.NewWriter(writeFunc(func(p []byte) (int, error) { return r.w.Write(p) }), 6)
			return r, err
		}}, "does not inflate"},
		{"no reader", &Flate{NewReader: func(io.Reader) io.ReadCloser { return nil }}, "no flate.Resetter"},
		{"a reader that panics", &Flate{NewReader: func(io.Reader) io.ReadCloser { panic("alas") }}, "alas"},
		{"a reader that cannot be reset", &Flate{NewReader: func(r io.Reader) io.ReadCloser { return io.NopCloser(r) }}, "no flate.Resetter"},
		{"a reader that takes too much", &Flate{NewReader: func(r io.Reader) io.ReadCloser { return greedy{flate.NewReader(r)} }}, "does not inflate"},
		{"gunzip", &Flate{NewReader: func(r io.Reader) io.ReadCloser { return new(unzipper) }}, "does not inflate"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			o := &Options{Deflate: &Deflate{Flate: tt.f}}
			check := func(by string, err error) {
				t.Helper()
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("%s: %v, want %q", by, err, tt.want)
				}
			}
			for range 2 { // the second time it is known
				for _, by := range connectors {
					_, err := by.connect(t, context.Background(), "ws://h/", o, func(conn net.Conn) {
						if n, _ := conn.Read(make([]byte, 1)); n > 0 {
							t.Errorf("%s: a request was sent", by.name)
						}
					})
					check(by.name, err)
				}
				server, peer := net.Pipe()
				go io.Copy(io.Discard, peer)
				go io.WriteString(peer, offering(t, deflateName))
				_, err := ShakeHands(NewConn(server, o))
				check("ShakeHands", err)
				if e, ok := errors.AsType[*HandshakeError](err); !ok || e.Status != http.StatusInternalServerError || strings.Contains(e.Reason, tt.want) {
					t.Errorf("ShakeHands: %#v", err)
				}
				peer.Close()

				resumed := *o
				resumed.Extensions = deflateName
				c := NewConn(new(tape), &resumed)
				_, _, err = c.ReadMessage()
				check("NewConn", err)
				if !errors.Is(err, os.ErrInvalid) || c.WriteMessage(Text, nil) != err {
					t.Errorf("NewConn: %v", err)
				}
			}
		})
	}
}

// An unzipper is a reader of gzip, as a flate.Resetter.
type unzipper struct{ gzip.Reader }

func (u *unzipper) Reset(r io.Reader, _ []byte) error {
	u.Reader.Reset(r)
	return nil
}

// TestFlateWriterFails has writers fail after the opening handshake: the message is not sent, and
// the connection is closed.
func TestFlateWriterFails(t *testing.T) {
	var m mood
	f := m.flate()
	for _, fault := range []string{writeFails, writePanics, flushFails, flushPanics, flushForgets, resetPanics} {
		for _, takeover := range []bool{false, true} {
			for _, client := range []bool{false, true} {
				for _, how := range []string{"WriteMessage", "NextWriter", "a second fragment"} {
					if fault == resetPanics && how == "a second fragment" {
						continue // it needs no reset
					}
					synctest.Test(t, func(t *testing.T) {
						name := fmt.Sprintf("%s/takeover=%t/client=%t/%s", fault, takeover, client, how)
						m.fault.Store("")
						own, other := &Options{Deflate: &Deflate{Flate: f, ContextTakeover: takeover}}, &Options{Deflate: &Deflate{ContextTakeover: takeover}}
						var from, to *Conn
						if client {
							to, from = deflatePair(t, other, own)
						} else {
							from, to = deflatePair(t, own, other)
						}
						type result struct {
							n   int
							err error
						}
						read := make(chan result, 1)
						go func() {
							for n := 0; ; n++ {
								if _, _, err := to.ReadMessage(); err != nil {
									read <- result{n, err}
									return
								}
							}
						}()
						answer := goErr(func() error { _, _, err := from.ReadMessage(); return err })
						p := sampleText(3000, 1)
						if err := from.WriteMessage(Text, p); err != nil {
							t.Fatal(name, err)
						}
						by := byPeer
						var err error
						var waiting <-chan error
						if how == "WriteMessage" {
							m.fault.Store(fault)
							err = from.WriteMessage(Text, p)
						} else {
							if fault == resetPanics {
								m.fault.Store(fault)
							}
							w, e := from.NextWriter(Text)
							if e != nil {
								t.Fatal(name, e)
							}
							waiting = goErr(func() error { return from.WriteMessage(Text, []byte("x")) })
							synctest.Wait()
							if how == "a second fragment" {
								by = byPeerEarly
								if _, err := w.Write(p); err != nil {
									t.Fatal(name, err)
								}
							}
							m.fault.Store(fault)
							var n int
							if n, err = w.Write(p); n != 0 {
								t.Errorf("%s: %d bytes were written", name, n)
							}
							defer func() {
								if e, ok := errors.AsType[*CloseError](w.Close()); !ok || e.Code != CloseInternalError {
									t.Errorf("%s: Close returned %v", name, e)
								}
							}()
						}
						want := map[bool]string{true: errFlush.Error(), false: errMood.Error()}[fault == flushForgets]
						if err == nil || !strings.Contains(err.Error(), want) || strings.HasSuffix(fault, "fails") != errors.Is(err, errMood) {
							t.Errorf("%s: %v", name, err)
						}
						got := wait(t, read)
						if checkCode(t, got.err, CloseInternalError, by); got.n != 1 {
							t.Errorf("%s: %d messages came", name, got.n)
						}
						if waiting != nil {
							checkCode(t, wait(t, waiting), CloseInternalError, byUs)
						}
						later := from.WriteMessage(Text, p)
						checkCode(t, later, CloseInternalError, byUs)
						if errors.Is(later, errMood) != errors.Is(err, errMood) {
							t.Errorf("%s: later: %v", name, later)
						}
						checkCode(t, wait(t, answer), CloseInternalError, byPeer)

						// What has gone wrong is not used again.
						m.fault.Store("")
						server, client := deflatePair(t, own, own)
						done := goErr(func() error { return cmp.Or(client.WriteMessage(Text, p), client.WriteMessage(Text, p)) })
						expectMessages(t, server, string(p), string(p))
						if err := wait(t, done); err != nil {
							t.Errorf("%s: another connection: %v", name, err)
						}
					})
				}
			}
		}
	}
}

// TestFlateBroadcastFails checks that a broadcast that cannot be compressed goes out as it is.
func TestFlateBroadcastFails(t *testing.T) {
	var m mood
	d := &Deflate{Flate: m.flate()}
	if err := d.check(); err != nil {
		t.Fatal(err)
	}
	s := &Server{Options: Options{Deflate: d}}
	rw := new(tape)
	c := tapeDeflate(rw, d, false)
	c.beginServe(nil, -1)
	c.opened()
	s.add(c)
	defer c.CloseNow()
	p := sampleText(3000, 1)
	for _, fault := range []string{"", writeFails, flushPanics, ""} {
		m.fault.Store(fault)
		if err := s.Broadcast(Text, p); err != nil {
			t.Error(fault, err)
		}
	}
	c.mu.Lock()
	if err := c.flushLocked(callers); err != nil {
		t.Error(err)
	}
	c.mu.Unlock()
	frames, err := parseWire(rw.written(), false)
	if err != nil || len(frames) != 4 {
		t.Fatalf("%d frames, %v", len(frames), err)
	}
	for i, f := range frames {
		compressed := i == 0 || i == 3
		if (f.first&rsv1Bit != 0) != compressed || !compressed && f.p != string(p) {
			t.Errorf("broadcast %d: %#x, %d bytes", i, f.first, len(f.p))
		}
	}
}

// TestFlateReaderFails has readers fail after the opening handshake, which closes the connection
// whoever reads, and however the message comes.
func TestFlateReaderFails(t *testing.T) {
	var m mood
	f := m.flate()
	z := deflatedOnce(9, string(sampleText(20000, 3)))
	for _, fault := range []string{readPanics, readsTooMuch, readsLess, readerFails, readerResetPanics} {
		for _, client := range []bool{false, true} {
			for _, frames := range [][]wireFrame{{wf(0xC1, z)}, {wf(0x41, z[:500]), wf(0x00, z[500:]), wf(0x80, "")}} {
				var wire []byte
				for _, f := range frames {
					wire = f.append(wire, !client, false)
				}
				for _, way := range packedReads {
					synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
						m.fault.Store("")
						o := &Options{Deflate: &Deflate{Flate: f}}
						rw := new(tape)
						c := packedConn(wireStream{bytes.NewReader(bytes.Clone(wire)), rw}, o, client, true)
						m.fault.Store(fault)
						got, err := way.all(c)
						e, ok := errors.AsType[*CloseError](err)
						if !ok || e.Code != CloseInternalError || !strings.HasPrefix(way.name, "Read") && len(got) > 0 {
							t.Fatalf("%s/%s/client=%t: %q, %v", fault, way.name, client, describe(got), err)
						}
						if errors.Is(err, errMood) != (fault == readerFails) {
							t.Errorf("%s/%s: the cause is %v", fault, way.name, e.err)
						}
						sent, err := parseWire(rw.written(), client)
						if len(sent) != 1 || err != nil || sent[0].p != closing(CloseInternalError, "a message could not be inflated") {
							t.Errorf("%s/%s: sent %+v, %v", fault, way.name, sent, err)
						}
					})
				}
			}
		}
	}
	m.fault.Store("")
	c := packedConn(wireStream{strings.NewReader(string(wf(0xC1, z).append(nil, true, false))), new(tape)}, &Options{Deflate: &Deflate{Flate: f}}, false, true)
	expectMessages(t, c, string(sampleText(20000, 3)))
}
