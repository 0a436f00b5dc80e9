package websocket

import (
	"bytes"
	"cmp"
	"compress/flate"
	"errors"
	"fmt"
	"io"
	"math"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// FuzzDeflate sends messages both ways between sides that have agreed on something.
func FuzzDeflate(f *testing.F) {
	for i := range byte(24) {
		f.Add(i*11, i*7, i, uint64(i), sampleText(20*int(i)*int(i), uint64(i)))
	}
	f.Add(byte(0xFF), byte(3), byte(0), uint64(9), bytes.Repeat([]byte("\x00\xff"), 40000))
	f.Fuzz(func(t *testing.T, flags, bits, level byte, seed uint64, data []byte) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		options := func(takeover bool, bits byte) *Options {
			d := &Deflate{ContextTakeover: takeover, Level: int(level%12) - 2, WindowBits: int(bits%9) + 7}
			if d.WindowBits == 7 {
				d.WindowBits = 0
			}
			if flags&4 != 0 {
				d.Threshold = -1
			}
			return &Options{Deflate: d, MaxMessage: 4 << 20}
		}
		server, client := deflatePair(t, options(flags&1 != 0, bits), options(flags&2 != 0, bits/9))
		defer client.CloseNow()
		defer server.CloseNow()
		for _, ends := range [][2]*Conn{{server, client}, {client, server}} {
			from, to := ends[0], ends[1]
			rest := data
			for i := range 1 + int(flags>>3&7) {
				p := rest[:rnd.IntN(len(rest)+1)]
				if i%2 > 0 {
					rest = rest[len(p):] // else the next is like this one
				}
				pieces := rnd.IntN(4)
				written := goErr(func() error {
					if pieces == 0 {
						return from.WriteMessage(Binary, p)
					}
					w, err := from.NextWriter(Binary)
					p := p
					for n := pieces; n > 0 && err == nil; n-- {
						_, err = w.Write(p[:len(p)/n])
						p = p[len(p)/n:]
					}
					return cmp.Or(err, w.Close())
				})
				var got []byte
				var err error
				switch rnd.IntN(4) {
				case 0:
					_, got, err = to.ReadMessage()
				case 1:
					_, got, err = to.AppendMessage(make([]byte, 0, rnd.IntN(len(p)+1)))
				case 2:
					var r io.Reader
					if _, r, err = to.NextReader(); err == nil {
						got, err = io.ReadAll(r)
					}
				case 3: // only a part
					if _, _, err = to.NextReader(); err == nil {
						go from.WriteMessage(Binary, []byte("x"))
						if _, x, err := to.ReadMessage(); string(x) != "x" || err != nil {
							t.Fatalf("%q: read %.20q, %v", to.Request().Extensions, x, err)
						}
						got = p
					}
				}
				if err != nil || !bytes.Equal(got, p) {
					t.Fatalf("%q: read %d bytes instead of %d, %v", to.Request().Extensions, len(got), len(p), err)
				}
				if err := <-written; err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// openTapped shakes hands over a pair of transports. With a response, the server sends that in
// Sec-WebSocket-Extensions.
func openTapped(t testing.TB, a, b net.Conn, so, co *Options, response string) (server, client *end) {
	t.Helper()
	server, client = &end{tap: &wireTap{Conn: a}}, &end{tap: &wireTap{Conn: b}}
	server.Conn = NewConn(server.tap, so)
	res := goErr(func() error {
		req, err := GetRequest(server.Conn)
		if err != nil {
			return err
		}
		if response != "" {
			req.Extensions = response
		}
		return PutResponse(server.Conn, req)
	})
	var err error
	if client.Conn, err = ClientHandshake(client.tap, "ws://server.example.com/", co); err != nil {
		t.Fatal(err)
	}
	if err := wait(t, res); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.CloseNow(); client.CloseNow() })
	for _, e := range []*end{server, client} {
		e.tap.b = nil
		e.takeover, e.bits = true, 15
	}
	agreed := client.Request().Extensions
	for who, e := range map[string]*end{"server": server, "client": client} {
		e.takeover = !strings.Contains(agreed, who+"_no_context_takeover")
		if m := regexp.MustCompile(who + `_max_window_bits=(\d+)`).FindStringSubmatch(agreed); m != nil {
			e.bits, _ = strconv.Atoi(m[1])
		}
	}
	return server, client
}

func tappedPipe(t testing.TB, so, co *Options, response string) (server, client *end) {
	t.Helper()
	a, b := net.Pipe()
	return openTapped(t, a, b, so, co, response)
}

// pairwise returns rows of one number below each size, so that any two values of two columns
// stand together in some row.
func pairwise(sizes []int) (rows [][]int) {
	type pair struct{ i, v, j, w int }
	open := map[pair]bool{}
	var order []pair
	for i := range sizes {
		for j := range i {
			for v := range sizes[i] {
				for w := range sizes[j] {
					order = append(order, pair{i, v, j, w})
					open[pair{i, v, j, w}] = true
				}
			}
		}
	}
	r := rand.New(rand.NewPCG(1, 1))
	r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for _, p := range order {
		if !open[p] {
			continue
		}
		row := slices.Repeat([]int{-1}, len(sizes))
		row[p.i], row[p.j] = p.v, p.w
		gain := func(i, v int) (n int) {
			for j, w := range row {
				if j != i && w >= 0 && (open[pair{i, v, j, w}] || open[pair{j, w, i, v}]) {
					n++
				}
			}
			return n
		}
		for _, i := range r.Perm(len(sizes)) {
			if row[i] >= 0 {
				continue
			}
			best, most := 0, -1
			for _, v := range r.Perm(sizes[i]) {
				if n := gain(i, v); n > most {
					best, most = v, n
				}
			}
			row[i] = best
		}
		for i, v := range row {
			for j, w := range row {
				delete(open, pair{i, v, j, w})
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// TestDeflateRoundTrip covers all pairs of what can be chosen: options of both sides, who
// writes, how, how it is read, and what. Every connection carries some messages more, so that
// there is a context to take over.
func TestDeflateRoundTrip(t *testing.T) {
	windows := []int{0, 8, 9, 10, 11, 12, 13, 14, 15}
	sizes := []int{0, 1, 127, 128, 600, 5000, 20000, 70000, 1 << 20}
	if raceEnabled || testing.Short() {
		sizes[len(sizes)-1] = 150000
	}
	const (
		level = iota
		serverTakeover
		clientTakeover
		serverBits
		clientBits
		role
		writer
		reader
		kind
		size
		columns
	)
	values := make([]int, columns)
	values[level] = 12
	values[serverTakeover], values[clientTakeover], values[role] = 2, 2, 2
	values[serverBits], values[clientBits] = len(windows), len(windows)
	values[writer], values[reader] = len(deflateWriters), len(deflateReaders)
	values[kind], values[size] = len(deflateKinds), len(sizes)
	for _, row := range pairwise(values) {
		options := func(takeover, bits int) *Options {
			return &Options{Deflate: &Deflate{
				Level: row[level] - 2, Threshold: -1, ContextTakeover: row[takeover] == 1, WindowBits: windows[row[bits]],
			}}
		}
		so, co := options(serverTakeover, serverBits), options(clientTakeover, clientBits)
		from, to := tappedPipe(t, so, co, "")
		if row[role] == 1 {
			from, to = to, from
		}
		for i, n := range []int{300, sizes[row[size]], min(1000, sizes[row[size]]), 0, 300} {
			p := deflateKinds[row[kind]](n, uint64(i%2))
			typ := []MessageType{Text, Binary}[i%2]
			w := (row[writer] + i/2) % len(deflateWriters)
			if i == 1 {
				w = row[writer]
			}
			done := goErr(func() error { return deflateWriters[w](from.Conn, typ, p) })
			gotType, got, err := deflateReaders[(row[reader]+i+2)%len(deflateReaders)](to.Conn)
			if err != nil || gotType != typ || !bytes.Equal(got, p) {
				t.Fatalf("row %d, message %d: type %v, %d bytes instead of %d, %v", row, i, gotType, len(got), n, err)
			}
			if err := wait(t, done); err != nil {
				t.Fatalf("row %d, message %d: %v", row, i, err)
			}
			from.checkSent(t, typ, p, w != 0)
			if t.Failed() {
				t.Fatalf("row %d, message %d", row, i)
			}
		}
		from.CloseNow()
		to.CloseNow()
	}
}

// TestDeflateDistance checks that a window is used as far as it can be.
func TestDeflateDistance(t *testing.T) {
	for bits := 8; bits <= 15; bits++ {
		o := &Options{Deflate: &Deflate{WindowBits: bits, Level: 6}}
		server, client := tappedPipe(t, o, o, "")
		distance := 5 << bits / 8
		p := bytes.Repeat(deflateKinds[1](distance, 1), 4)
		done := goErr(func() error { return client.WriteMessage(Text, p) })
		if _, _, err := server.ReadMessage(); err != nil {
			t.Fatal(err)
		}
		if err := wait(t, done); err != nil {
			t.Fatal(err)
		}
		if client.checkSent(t, Text, p, false); client.far != distance {
			t.Errorf("%d window bits: largest distance %d, want %d", bits, client.far, distance)
		}
	}
}

// TestDeflateWindows has each side send with the window and the takeover that a response
// gives it.
func TestDeflateWindows(t *testing.T) {
	const name = "permessage-deflate"
	for _, tt := range []struct {
		server, client Deflate
		response       string // the server's own, if empty
		agreed         string
	}{
		{Deflate{WindowBits: 15}, Deflate{WindowBits: 9}, "", name + "; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; client_max_window_bits=9"},
		{Deflate{WindowBits: 10, ContextTakeover: true}, Deflate{ContextTakeover: true}, "", name + "; server_max_window_bits=10; client_max_window_bits=10"},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true}, "", name},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true}, name + "; server_max_window_bits=9; client_max_window_bits=8", ""},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true}, name + "; server_max_window_bits=8; client_max_window_bits=15", ""},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true}, name + "; client_max_window_bits=9", ""},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true}, name + "; server_no_context_takeover; client_max_window_bits=12", ""},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true}, name + "; client_no_context_takeover; server_max_window_bits=12", ""},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true, WindowBits: 11}, name + "; server_max_window_bits=9; client_max_window_bits=10", ""},
		// A server may say nothing about the client's window; then it has 15 bits, but the
		// client keeps to its own limit.
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true, WindowBits: 11}, name + "; server_max_window_bits=9", ""},
	} {
		response := tt.response
		if response == "" {
			response = tt.agreed
		}
		t.Run(strings.TrimPrefix(response, name), func(t *testing.T) {
			tt.server.Threshold, tt.client.Threshold = -1, -1
			server, client := tappedPipe(t, &Options{Deflate: &tt.server}, &Options{Deflate: &tt.client}, tt.response)
			if got := server.Request().Extensions; got != response || client.Request().Extensions != got {
				t.Fatalf("agreed on %q and %q, want %q", got, client.Request().Extensions, response)
			}
			if bits := tt.client.WindowBits; bits != 0 {
				client.bits = min(client.bits, bits)
			}
			for _, pair := range [][2]*end{{server, client}, {client, server}} {
				from, to := pair[0], pair[1]
				far := 0
				for i := range 12 {
					p := deflateKinds[2](2000*i, 1)
					w := i % 2
					done := goErr(func() error { return deflateWriters[w](from.Conn, Text, p) })
					if _, got, err := to.ReadMessage(); err != nil || !bytes.Equal(got, p) {
						t.Fatalf("message %d: %d bytes instead of %d, %v", i, len(got), len(p), err)
					}
					if err := wait(t, done); err != nil {
						t.Fatal(err)
					}
					from.checkSent(t, Text, p, w == 1)
					far = max(far, from.far)
				}
				if far < min(2000, 1<<from.bits/2) {
					t.Errorf("no distance is larger than %d with %d window bits", far, from.bits)
				}
			}
		})
	}
}

// TestDeflateTakeover checks that equal messages become much shorter with takeover, and that
// they do not without it.
func TestDeflateTakeover(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		for _, bits := range []int{0, 12} {
			o := &Options{Deflate: &Deflate{ContextTakeover: takeover, WindowBits: bits}}
			server, client := tappedPipe(t, o, o, "")
			for _, pair := range [][2]*end{{server, client}, {client, server}} {
				from, to := pair[0], pair[1]
				p := sampleText(600, 1)
				var lengths []int
				for i := range 3 {
					done := goErr(func() error { return from.WriteMessage(Text, p) })
					if _, got, err := to.ReadMessage(); err != nil || !bytes.Equal(got, p) {
						t.Fatal(i, err)
					}
					if err := wait(t, done); err != nil {
						t.Fatal(err)
					}
					from.tap.mu.Lock()
					lengths = append(lengths, len(from.tap.b))
					from.tap.mu.Unlock()
					if !from.checkSent(t, Text, p, false) {
						t.Fatal("not compressed")
					}
				}
				if takeover && (lengths[0] < 3*lengths[1] || lengths[1] < lengths[2]) ||
					!takeover && (lengths[0] != lengths[1] || lengths[1] != lengths[2]) {
					t.Errorf("takeover %t, %d window bits: messages of %d bytes", takeover, bits, lengths)
				}
			}
		}
	}
}

// TestDeflateHistory checks that a window keeps the end of what it is given, and needs no
// more memory than it may.
func TestDeflateHistory(t *testing.T) {
	for _, size := range []int{128, 4 << 10, 32 << 10} {
		w := window{takeover: true, size: size}
		var all []byte
		for i, n := range []int{10, 0, 100, 1000, 20, 5000, 4095, 4096, 4097, 10, 20000, 32768, 1, 32767, 40000, 7} {
			p := sampleText(n, uint64(i))
			all = append(all, p...)
			w.add(p)
			if want := all[max(0, len(all)-size):]; !bytes.Equal(w.history, want) || cap(w.history) > size {
				t.Fatalf("%d bytes kept, and room for %d, want %d", len(w.history), cap(w.history), len(want))
			}
		}
	}
	w := window{size: 128}
	if w.add([]byte("x")); w.history != nil {
		t.Error("something is kept without takeover")
	}
}

func TestDeflateThreshold(t *testing.T) {
	for _, tt := range []struct {
		threshold int
		takeover  bool
		refuses   bool // the peer does not allow the takeover
		first     int  // size of the smallest message that is compressed
	}{
		{0, false, false, 512},
		{0, true, false, 128},
		{0, true, true, 512},
		{1000, false, false, 1000},
		{100, true, false, 100},
		{20, false, false, 20},
		// Shorter ones would not become shorter.
		{-1, false, false, 17},
		{math.MinInt, true, false, 17},
		{1, false, false, 17},
	} {
		for _, client := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d/takeover=%t/refused=%t/client=%t", tt.threshold, tt.takeover, tt.refuses, client), func(t *testing.T) {
				o := &Options{Deflate: &Deflate{Threshold: tt.threshold, ContextTakeover: tt.takeover}}
				other := &Options{Deflate: &Deflate{ContextTakeover: tt.takeover && !tt.refuses}}
				so, co := o, other
				if client {
					so, co = other, o
				}
				from, to := tappedPipe(t, so, co, "")
				if client {
					from, to = to, from
				}
				for _, size := range []int{0, 1, tt.first - 1, tt.first, tt.first + 1, 5000, tt.first - 1} {
					p := make([]byte, size)
					done := goErr(func() error { return from.WriteMessage(Binary, p) })
					if _, got, err := to.ReadMessage(); err != nil || !bytes.Equal(got, p) {
						t.Fatal(size, err)
					}
					if err := wait(t, done); err != nil {
						t.Fatal(err)
					}
					if got, want := from.checkSent(t, Binary, p, false), size >= tt.first; got != want {
						t.Errorf("%d bytes: compressed: %t, want %t", size, got, want)
					}
				}
			})
		}
	}
}

// TestDeflateIncompressible checks that what does not become shorter is sent as it is, and is
// no part of the context.
func TestDeflateIncompressible(t *testing.T) {
	r := rand.NewChaCha8([32]byte{})
	for _, takeover := range []bool{false, true} {
		for _, level := range []int{-2, 1, 6} {
			o := &Options{Deflate: &Deflate{ContextTakeover: takeover, Level: level}}
			server, client := tappedPipe(t, o, o, "")
			for _, pair := range [][2]*end{{server, client}, {client, server}} {
				from, to := pair[0], pair[1]
				random := make([]byte, 3000)
				r.Read(random)
				for i, p := range [][]byte{sampleText(1000, 1), random, sampleText(1000, 2), random, make([]byte, 600), random[:700]} {
					done := goErr(func() error { return from.WriteMessage(Binary, p) })
					if _, got, err := to.ReadMessage(); err != nil || !bytes.Equal(got, p) {
						t.Fatal(i, err)
					}
					if err := wait(t, done); err != nil {
						t.Fatal(err)
					}
					if got, want := from.checkSent(t, Binary, p, false), i%2 == 0; got != want {
						t.Errorf("message %d: compressed: %t", i, got)
					}
				}
			}
		}
	}
}

// TestDeflateSmallWrites checks that a message that is not too large is taken in whatever
// pieces it comes, although each of them grows by the end of its block.
func TestDeflateSmallWrites(t *testing.T) {
	for _, size := range []int{1, 16, 100} {
		for _, max := range []int{1000, 100000} {
			so := &Options{Deflate: new(Deflate), MaxMessage: int64(max)}
			server, client := tappedPipe(t, so, &Options{Deflate: new(Deflate)}, "")
			p := deflateKinds[1](min(max, size*maxFragments/2), 1)
			done := goErr(func() error { return writeCut(size)(client.Conn, Text, p) })
			if _, got, err := server.ReadMessage(); err != nil || !bytes.Equal(got, p) {
				t.Fatalf("%d bytes in pieces of %d: %v", len(p), size, err)
			}
			if err := wait(t, done); err != nil {
				t.Error(err)
			}
		}
	}
	// A stream may have any number of fragments, even if they are short.
	if raceEnabled {
		return
	}
	o := &Options{Deflate: new(Deflate), MaxMessage: -1}
	server, client := deflatePair(t, o, o)
	p := sampleText(100*(maxFragments+1000), 1)
	done := goErr(func() error { return writeCut(100)(client, Text, p) })
	if _, r, err := server.NextReader(); err != nil {
		t.Fatal(err)
	} else if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, p) {
		t.Fatalf("%d of %d bytes in pieces of 100: %v", len(got), len(p), err)
	}
	if err := wait(t, done); err != nil {
		t.Error(err)
	}
}

// TestDeflateConcurrentWrites has many goroutines write on both sides at the same time.
func TestDeflateConcurrentWrites(t *testing.T) {
	writers, messages := 4, 14
	if raceEnabled { // every fourth compressor is a new one then, which takes long
		writers, messages = 3, 5
	}
	for _, network := range []string{"pipe", "tcp"} {
		for _, takeover := range []bool{false, true} {
			for _, bits := range []int{0, 10} {
				t.Run(fmt.Sprintf("%s/takeover=%t/bits=%d", network, takeover, bits), func(t *testing.T) {
					a, b := net.Pipe()
					if network == "tcp" {
						a, b = socketPair(t, "tcp", "127.0.0.1:0")
					}
					o := &Options{Deflate: &Deflate{ContextTakeover: takeover, WindowBits: bits}}
					server, client := openTapped(t, a, b, o, o, "")
					var done []<-chan error
					for _, e := range []*end{server, client} {
						for w := range writers {
							done = append(done, goErr(func() error { return sendNumbered(e.Conn, strings.Repeat("w", w+1), messages) }))
						}
						done = append(done, goErr(func() error {
							got := arrivals{}
							for i := range writers * messages {
								_, p, err := deflateReaders[i%len(deflateReaders)](e.Conn)
								if err == nil {
									err = got.add(p)
								}
								if err != nil {
									e.CloseNow() // lets the writers end
									return err
								}
							}
							return nil
						}))
					}
					for _, done := range done {
						if err := wait(t, done); err != nil {
							t.Error(err)
						}
					}
					if !raceEnabled { // it takes long, and has no part in a race
						checkHistory(t, takeover, server, client)
					}
				})
			}
		}
	}
}

// TestDeflateFaults ends connections while compressed messages are being written. The writes
// return, and later ones fail with the same error.
func TestDeflateFaults(t *testing.T) {
	errFault := errors.New("a fault of the transport")
	for _, takeover := range []bool{false, true} {
		o := &Options{Deflate: &Deflate{ContextTakeover: takeover}, CloseTimeout: time.Second}
		for _, client := range []bool{false, true} {
			for w, write := range deflateWriters[:3] {
				for _, size := range []int{3000, 100000} {
					for _, tt := range []struct {
						name string
						end  func(c *Conn, rw *stuck) error
						want error
					}{
						{"timeout", func(c *Conn, _ *stuck) error { return c.SetWriteDeadline(time.Now().Add(time.Second)) }, os.ErrDeadlineExceeded},
						{"past", func(c *Conn, _ *stuck) error { return c.SetWriteDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
						{"CloseNow", func(c *Conn, _ *stuck) error { return c.CloseNow() }, net.ErrClosed},
						{"Close", func(c *Conn, _ *stuck) error {
							if err := c.Close(); !errors.Is(err, os.ErrDeadlineExceeded) {
								return fmt.Errorf("Close: %w", err)
							}
							return nil
						}, net.ErrClosed},
						{"fault", func(_ *Conn, rw *stuck) error {
							rw.fault = errFault
							return rw.Conn.SetWriteDeadline(time.Unix(1, 0))
						}, errFault},
					} {
						name := fmt.Sprintf("takeover=%t/client=%t/writer=%d/%d/%s", takeover, client, w, size, tt.name)
						synctest.Test(t, func(t *testing.T) {
							a, b := net.Pipe()
							defer b.Close()
							rw := &stuck{Conn: a}
							c := tapeDeflate(rw, o.Deflate, client)
							c.opts = o
							defer c.CloseNow()
							p := deflateKinds[1](size, 1)
							// Others wait for the first one.
							var writes []<-chan error
							for range 3 {
								writes = append(writes, goErr(func() error { return write(c, Text, p) }))
							}
							synctest.Wait()
							if err := tt.end(c, rw); err != nil {
								t.Errorf("%s: %v", name, err)
							}
							for _, done := range writes {
								if err := wait(t, done); !errors.Is(err, tt.want) {
									t.Errorf("%s: %v", name, err)
								}
							}
							c.SetWriteDeadline(time.Time{})
							first := c.WriteMessage(Text, p)
							stalled := tt.want == os.ErrDeadlineExceeded && first == finalError{errStalled} // in the end
							if !stalled && !errors.Is(first, tt.want) {
								t.Errorf("%s: later: %v", name, first)
							}
							for w, write := range deflateWriters {
								if err := write(c, Text, p); err != first {
									t.Errorf("%s: later, writer %d: %v instead of %v", name, w, err, first)
								}
							}
						})
					}
				}
			}
		}
	}
}

// A stuck is a transport that nobody reads from, whose writes can fail.
type stuck struct {
	net.Conn
	fault error
}

func (s *stuck) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	return n, cmp.Or(s.fault, err)
}

// TestDeflatePool checks that compressors that were in use when their connections ended do
// not spoil messages of others.
func TestDeflatePool(t *testing.T) {
	times := 20
	if raceEnabled {
		times = 6
	}
	var done []<-chan error
	for g := range 4 {
		done = append(done, goErr(func() error {
			d := &Deflate{ContextTakeover: g%2 == 0, Threshold: -1}
			for i := range times {
				a, b := net.Pipe()
				ending := tapeDeflate(a, d, false)
				write := goErr(func() error { return deflateWriters[i%3](ending, Text, sampleText(300000, uint64(i))) })
				b.Read(make([]byte, 1000))
				close := goErr(ending.CloseNow)
				for j := range 3 {
					e := &end{tap: &wireTap{Conn: tapeNetConn{tape: new(tape)}}, bits: 15}
					e.Conn = tapeDeflate(e.tap, d, g == 3)
					p := sampleText(5000, uint64(100*g+10*i+j))
					w := (i + j) % 3
					if err := deflateWriters[w](e.Conn, Text, p); err != nil {
						return err
					}
					e.checkSent(t, Text, p, w > 0)
				}
				if err := <-close; err != nil {
					return err
				}
				if err := <-write; err == nil {
					return errors.New("a write that nobody has read succeeded")
				}
				b.Close()
			}
			return nil
		}))
	}
	for _, done := range done {
		if err := wait(t, done); err != nil {
			t.Error(err)
		}
	}
}

// TestDeflateUnclosed leaves messages from NextWriter open when their connections end, and
// closes them afterwards, twice.
func TestDeflateUnclosed(t *testing.T) {
	for _, end := range []func(*Conn) error{(*Conn).CloseNow, (*Conn).Close} {
		c, _ := tapeConn(&Options{CloseTimeout: time.Second}, false, false)
		d := new(Deflate)
		agreed := d.offer()
		c.speak(RFC6455, &agreed)
		w, err := c.NextWriter(Text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(sampleText(1000, 1)); err != nil {
			t.Fatal(err)
		}
		end(c)
		if _, err := w.Write(sampleText(1000, 1)); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if err := w.Close(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if err := w.Close(); err == nil {
			t.Error("closed twice")
		}
		if _, err := w.Write(nil); err == nil {
			t.Error("written behind the end")
		}
	}
}

// TestDeflateAllocations checks that a message is compressed without allocations, and that
// one is inflated with those of compress/flate alone, which makes tables for codes that are
// longer than nine bits.
func TestDeflateAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget under the race detector")
	}
	for _, level := range []int{-2, 1, 6} {
		for _, takeover := range []bool{false, true} {
			for _, client := range []bool{false, true} {
				for _, size := range []int{128, 1 << 10, 16 << 10, 200 << 10} {
					d := &Deflate{Level: level, ContextTakeover: takeover, Threshold: -1, WindowBits: 15}
					c := tapeDeflate(struct {
						io.Reader
						io.Writer
					}{nil, io.Discard}, d, client)
					p := sampleText(size, 1)
					if n := testing.AllocsPerRun(20, func() {
						if err := c.WriteMessage(Text, p); err != nil {
							t.Fatal(err)
						}
					}); n > 0 {
						t.Errorf("level %d, takeover %t, client %t: %v allocations for %d bytes", level, takeover, client, n, size)
					}
				}
			}
		}
	}
	// 1024 times the same byte need no such code.
	c := tapeDeflate(nil, new(Deflate), false)
	message, _ := standard[1-flate.HuffmanOnly].compressor(15, nil).compress(make([]byte, 1024))
	c.t.rw = struct {
		io.Reader
		io.Writer
	}{&endless{b: appendFrame(nil, finBit|rsv1Bit|opBinary, message[:len(message)-len(syncMarker)], true)}, io.Discard}
	var p []byte
	if n := testing.AllocsPerRun(20, func() {
		var err error
		if _, p, err = c.AppendMessage(p[:0]); err != nil || len(p) != 1024 {
			t.Fatal(len(p), err)
		}
	}); n > 0 {
		t.Errorf("%v allocations to inflate a message", n)
	}
}

func BenchmarkDeflate(b *testing.B) {
	benchDeflate(b, func(b *testing.B, d *Deflate, client bool, p []byte) {
		rw := &counter{}
		c := tapeDeflate(rw, d, client)
		for b.Loop() {
			if err := c.WriteMessage(Text, p); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(rw.bytes)/float64(b.N), "wire-B/op")
	})
}

// A counter is a transport that counts what is written.
type counter struct {
	io.Reader
	bytes int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	return len(p), nil
}

// BenchmarkDeflateMemory reports the heap that a server's Conn takes when it is idle, after it
// has received and sent some messages of 1 KiB.
func BenchmarkDeflateMemory(b *testing.B) {
	const conns = 500
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // empties the pools
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	for _, mode := range []struct {
		name string
		d    *Deflate
	}{
		{"none", nil},
		{"no-takeover", &Deflate{}},
		{"takeover", &Deflate{ContextTakeover: true}},
		{"takeover/bits=12", &Deflate{ContextTakeover: true, WindowBits: 12}},
		{"takeover/bits=9", &Deflate{ContextTakeover: true, WindowBits: 9}},
	} {
		b.Run(mode.name, func(b *testing.B) {
			for b.Loop() {
				var in []byte
				rw := new(tape)
				peer, _ := tapeConn(nil, true, false)
				peer.t.rw = rw
				if mode.d != nil {
					peer = tapeDeflate(rw, mode.d, true)
				}
				for i := range 50 {
					peer.WriteMessage(Text, sampleText(1024, uint64(i)))
				}
				in = rw.written()
				before := heap()
				var all []*Conn
				for range conns {
					transport := &struct {
						io.Reader
						io.Writer
					}{bytes.NewReader(in), io.Discard}
					c := newConn(transport, nil, false)
					if mode.d != nil {
						c = tapeDeflate(transport, mode.d, false)
					}
					for range 50 {
						typ, p, err := c.ReadMessage()
						if err == nil {
							err = c.WriteMessage(typ, p)
						}
						if err != nil {
							b.Fatal(err)
						}
					}
					c.t.release()
					all = append(all, c)
				}
				b.ReportMetric((heap()-before)/conns, "heap-B/conn")
				runtime.KeepAlive(all)
			}
		})
	}
}

// TestDeflateStalled checks that a writer that waits for its peer holds no compressor.
func TestDeflateStalled(t *testing.T) {
	const n = 64
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for _, takeover := range []bool{false, true} {
		before := heap()
		p := sampleText(1000, 1)
		var conns []*Conn
		var done []<-chan error
		for range n {
			rw, peer := net.Pipe()
			c := packedConn(rw, &Options{Deflate: &Deflate{ContextTakeover: takeover}}, false, takeover)
			conns = append(conns, c)
			done = append(done, goErr(func() error { return c.WriteMessage(Text, p) }))
			peer.Read(make([]byte, 1)) // the write has begun
		}
		if each := (heap() - before) / n; each > 64<<10 {
			t.Errorf("takeover=%t: a writer that waits holds %d bytes", takeover, each)
		}
		for i, c := range conns {
			c.CloseNow()
			wait(t, done[i])
		}
	}
}

// TestDeflateBusy checks that a Write that is refused, as another one is going on, leaves no
// trace.
func TestDeflateBusy(t *testing.T) {
	rw, peer := net.Pipe()
	defer peer.Close()
	c := packedConn(rw, nil, false, false)
	defer c.CloseNow()
	w, err := c.NextWriter(Text)
	if err != nil {
		t.Fatal(err)
	}
	first := goErr(func() error { _, err := io.WriteString(w, "a"); return err })
	peer.Read(make([]byte, 1))
	if _, err := io.WriteString(w, "\xc3"); !errors.Is(err, errBusy) {
		t.Error(err)
	}
	if err := w.Close(); !errors.Is(err, errBusy) {
		t.Error(err)
	}
	go io.Copy(io.Discard, peer)
	if err := wait(t, first); err != nil {
		t.Error(err)
	}
	if _, err := io.WriteString(w, "b"); err != nil {
		t.Error("after a write that was refused:", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}
