package websocket

import (
	"bytes"
	"cmp"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"
	"math/bits"
	"math/rand/v2"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

// Here is what the tests of several concepts know of the wire: frames and compressed messages,
// made and parsed, mostly by other code than the package's.

func sampleText(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, `{"id":%d,"user":"user_%d","text":"the quick brown fox","tags":["alpha","beta"]}`, r.IntN(1e6), r.IntN(1000))
	}
	return []byte(b.String()[:n])
}

func deflatePair(t testing.TB, so, co *Options) (server, client *Conn) {
	a, b := net.Pipe()
	server = NewConn(a, so)
	res := goErr(func() error { _, err := ShakeHands(server); return err })
	client, err := ClientHandshake(b, "ws://h/", co)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-res; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.CloseNow(); client.CloseNow() })
	return
}

// Examples of RFC 7692, section 7.2.3.
const (
	rfcHello     = "\xf2\x48\xcd\xc9\xc9\x07\x00"
	rfcShared    = "\xf2\x00\x11\x00\x00" // refers to an earlier Hello
	rfcStored    = "\x00\x05\x00\xfa\xffHello\x00"
	rfcFinal     = "\xf3\x48\xcd\xc9\xc9\x07\x00\x00"
	rfcTwoBlocks = "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"
)

// packedConn returns a Conn that has agreed on compression.
func packedConn(rw io.ReadWriter, o *Options, client, takeover bool) *Conn {
	c := newConn(rw, o, client)
	p := paramsWith(takeover)
	c.speak(RFC6455, &p)
	return c
}

// paramsWith returns parameters with or without context takeover on both sides.
func paramsWith(takeover bool) (p deflateParams) {
	if !takeover {
		p[serverReset], p[clientReset] = noValue, noValue
	}
	return p
}

// A peerDeflater compresses the messages of a peer that lets them refer to each other.
type peerDeflater struct {
	w   *flate.Writer
	out bytes.Buffer
}

func newPeerDeflater(level int) *peerDeflater {
	p := new(peerDeflater)
	p.w, _ = flate.NewWriter(&p.out, level)
	return p
}

func (p *peerDeflater) message(m string) string {
	p.out.Reset()
	io.WriteString(p.w, m)
	p.w.Flush()
	return strings.TrimSuffix(p.out.String(), syncMarker)
}

// packedWire returns what a peer sends: a message in fragments with a ping within it, which
// ends at the first size bytes, and two that refer to it.
func packedWire(client bool, m string) (wire []byte, size int) {
	peer := newPeerDeflater(9)
	z := peer.message(m)
	for _, f := range []wireFrame{wf(0x41, z[:len(z)/3]), wf(0x89, "ping"), wf(0x00, z[len(z)/3:len(z)/2]), wf(0x00, ""), wf(0x00, z[len(z)/2:]), wf(0x80, "")} {
		wire = f.append(wire, !client, false)
	}
	size = len(wire)
	for range 2 {
		wire = wf(0xC1, peer.message(m)).append(wire, !client, false)
	}
	return wire, size
}

// A streamParser inflates a stream of DEFLATE (RFC 1951) by the letter, one bit at a time.
type streamParser struct {
	in   []byte
	bits int    // of in that have been read
	out  []byte // begins with what is known from before
	far  int    // the largest distance
}

func (s *streamParser) take(n int) (v int) {
	for i := range n {
		if s.bits/8 >= len(s.in) {
			panic("the stream is cut short")
		}
		v |= int(s.in[s.bits/8]) >> (s.bits % 8) & 1 << i
		s.bits++
	}
	return v
}

// A prefixCode is a canonical Huffman code: how many codes there are of every length, and
// the symbols in their order.
type prefixCode struct {
	count   [16]int
	symbols []int
}

func newPrefixCode(lengths []int) (c prefixCode) {
	for n := range c.count {
		for symbol, length := range lengths {
			if length == n && n > 0 {
				c.count[n]++
				c.symbols = append(c.symbols, symbol)
			}
		}
	}
	return c
}

func (s *streamParser) symbol(c *prefixCode) int {
	code, first, index := 0, 0, 0
	for _, count := range c.count[1:] {
		code |= s.take(1)
		if code-first < count {
			return c.symbols[index+code-first]
		}
		index += count
		first = (first + count) << 1
		code <<= 1
	}
	panic("no such code")
}

var fixedCodes = sync.OnceValue(func() [2]prefixCode {
	lengths := slices.Concat(slices.Repeat([]int{8}, 144), slices.Repeat([]int{9}, 112), slices.Repeat([]int{7}, 24), slices.Repeat([]int{8}, 8))
	return [2]prefixCode{newPrefixCode(lengths), newPrefixCode(slices.Repeat([]int{5}, 30))}
})

// codes reads the codes of a dynamic block (RFC 1951, section 3.2.7).
func (s *streamParser) codes() [2]prefixCode {
	literals, distances, n := 257+s.take(5), 1+s.take(5), 4+s.take(4)
	var lengths [19]int
	for _, i := range []int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}[:n] {
		lengths[i] = s.take(3)
	}
	code := newPrefixCode(lengths[:])
	var all []int
	for len(all) < literals+distances {
		switch symbol := s.symbol(&code); symbol {
		case 16:
			all = append(all, slices.Repeat(all[len(all)-1:], 3+s.take(2))...)
		case 17:
			all = append(all, make([]int, 3+s.take(3))...)
		case 18:
			all = append(all, make([]int, 11+s.take(7))...)
		default:
			all = append(all, symbol)
		}
	}
	return [2]prefixCode{newPrefixCode(all[:literals]), newPrefixCode(all[literals:])}
}

// block reads a block and reports whether it is the last one.
func (s *streamParser) block() bool {
	last := s.take(1) == 1
	var codes [2]prefixCode
	switch kind := s.take(2); kind {
	case 0:
		s.bits = (s.bits + 7) &^ 7
		n := s.take(16)
		if s.take(16) != n^0xFFFF {
			panic("the length of a stored block is wrong")
		}
		s.out = append(s.out, s.in[s.bits/8:][:n]...)
		s.bits += 8 * n
		return last
	case 1:
		codes = fixedCodes()
	case 2:
		codes = s.codes()
	default:
		panic("no such kind of block")
	}
	for {
		symbol := s.symbol(&codes[0])
		if symbol < 256 {
			s.out = append(s.out, byte(symbol))
			continue
		}
		if symbol == 256 {
			return last
		}
		// RFC 1951, section 3.2.5.
		length := 258
		if symbol < 285 {
			length = symbol - 257
			if bits := max(0, length/4-1); bits > 0 {
				length = (4+length%4)<<bits + s.take(bits)
			}
			length += 3
		}
		distance := s.symbol(&codes[1])
		if bits := max(0, distance/2-1); bits > 0 {
			distance = (2+distance%2)<<bits + s.take(bits)
		}
		distance++
		if distance > len(s.out) {
			panic(fmt.Sprintf("a distance of %d where %d bytes are known", distance, len(s.out)))
		}
		s.far = max(s.far, distance)
		for range length {
			s.out = append(s.out, s.out[len(s.out)-distance])
		}
	}
}

// parseDeflated inflates the payload of a compressed message for a receiver that knows
// history. It also returns the largest distance.
func parseDeflated(payload string, history []byte) (p []byte, far int, err error) {
	s := &streamParser{in: []byte(payload + syncMarker), out: slices.Clone(history)}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("after %d of %d bytes: %v", s.bits/8, len(payload), v)
		}
	}()
	for s.bits < 8*len(s.in) {
		if s.block() {
			return nil, 0, errors.New("a last block")
		}
	}
	return s.out[len(history):], s.far, nil
}

// A wireTap keeps what is written to a transport.
type wireTap struct {
	net.Conn
	mu sync.Mutex
	b  []byte
}

func (w *wireTap) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.b = append(w.b, p...)
	w.mu.Unlock()
	return w.Conn.Write(p)
}

// frames returns the frames written since the last call.
func (w *wireTap) frames(t testing.TB, masked bool) []wireFrame {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	all, err := parseWire(w.b, masked)
	if err != nil {
		t.Fatal(err)
	}
	w.b = nil
	return all
}

// An end is one side of a connection whose writes are kept, with what its peer knows.
type end struct {
	*Conn
	tap      *wireTap
	takeover bool
	bits     int
	known    []byte // of the compressed messages sent so far
	plain    int    // messages that were not compressed
	far      int    // the largest distance
}

// checkSent checks the frames of the message p that e has just written. writer tells that it
// came from NextWriter.
func (e *end) checkSent(t testing.TB, typ MessageType, p []byte, writer bool) (compressed bool) {
	t.Helper()
	frames := e.tap.frames(t, e.write.client)
	if len(frames) == 0 || !writer && len(frames) != 1 {
		t.Fatalf("a message in %d frames", len(frames))
	}
	compressed = frames[0].first&rsv1Bit != 0
	var payload strings.Builder
	for i, f := range frames {
		first := byte(0)
		if i == 0 {
			first = byte(typ)
			if compressed {
				first |= rsv1Bit
			}
		}
		if i == len(frames)-1 {
			first |= finBit
		}
		if f.first != first {
			t.Fatalf("frame %d of %d begins with %#x, want %#x", i, len(frames), f.first, first)
		}
		payload.WriteString(f.p)
	}
	if !compressed {
		e.plain++
		if writer || payload.String() != string(p) {
			t.Fatal("a message from NextWriter is not compressed, or one that is not compressed is wrong")
		}
		return false
	}
	if !writer && payload.Len() >= len(p) {
		t.Fatalf("%d bytes were compressed to %d", len(p), payload.Len())
	}
	got, far, err := parseDeflated(payload.String(), e.known)
	switch {
	case err != nil:
		t.Fatal(err)
	case !bytes.Equal(got, p):
		t.Fatalf("the message on the wire is another one, of %d bytes instead of %d", len(got), len(p))
	case far > 1<<e.bits:
		t.Fatalf("a distance of %d with %d window bits", far, e.bits)
	}
	e.far = max(e.far, far)
	if e.takeover {
		e.known = append(e.known, p...)
		e.known = bytes.Clone(e.known[max(0, len(e.known)-1<<e.bits):])
	}
	return true
}

// Ways to write a message.
var deflateWriters = []func(c *Conn, t MessageType, p []byte) error{
	(*Conn).WriteMessage,
	writeCut(1 << 20),
	writeCut(4001),
	writeCut(100, 0, 7, 2000, 0, 30000),
	writeCut(0, 1<<18),
}

// writeCut writes a message with NextWriter, in pieces of these sizes in turn.
func writeCut(sizes ...int) func(c *Conn, t MessageType, p []byte) error {
	return func(c *Conn, t MessageType, p []byte) error {
		w, err := c.NextWriter(t)
		for i := 0; len(p) > 0 && err == nil; i++ {
			n := min(len(p), sizes[i%len(sizes)])
			_, err = w.Write(p[:n])
			p = p[n:]
		}
		if err != nil {
			return err
		}
		return w.Close()
	}
}

// Ways to read one.
var deflateReaders = []func(c *Conn) (MessageType, []byte, error){
	(*Conn).ReadMessage,
	func(c *Conn) (MessageType, []byte, error) { return c.AppendMessage(make([]byte, 0, 100)) },
	func(c *Conn) (MessageType, []byte, error) {
		t, r, err := c.NextReader()
		if err != nil {
			return 0, nil, err
		}
		p, err := io.ReadAll(r)
		return t, p, err
	},
}

// deflateKinds make payloads, all of them text, of n bytes.
var deflateKinds = []func(n int, seed uint64) []byte{
	sampleText,
	func(n int, seed uint64) []byte { // can be compressed by a tenth, or not at all where it is short
		p, r := make([]byte, n), rand.New(rand.NewPCG(seed, 2))
		for i := range p {
			p[i] = byte(r.IntN(128))
		}
		return p
	},
	func(n int, seed uint64) []byte { // repeats itself from far away
		return bytes.Repeat(sampleText(3000, seed), n/3000+1)[:n]
	},
	func(n int, _ uint64) []byte { return make([]byte, n) },
}

// numbered is a message that tells who has sent it and as which one.
func numbered(source string, i, size int) []byte {
	p := fmt.Appendf(make([]byte, 0, size+100), "%s %d %d ", source, i, size)
	n := len(p)
	p = p[:n+size]
	copy(p[n:], numberedTexts()[min(size/10000, 1)][100*(i%16)+len(source):])
	return p
}

// numberedTexts returns a text that becomes much smaller and one that does not.
var numberedTexts = sync.OnceValue(func() [2][]byte {
	return [2][]byte{sampleText(20000, 1), deflateKinds[1](1<<17, 1)}
})

// An arrivals checks numbered messages: each source's have to come whole and in order.
type arrivals map[string]int

func (a arrivals) add(p []byte) error {
	var source string
	var i, size int
	if _, err := fmt.Sscan(string(p[:min(len(p), 60)]), &source, &i, &size); err != nil {
		return fmt.Errorf("%.60q: %w", p, err)
	}
	if want := numbered(source, i, size); !bytes.Equal(p, want) {
		return fmt.Errorf("message %d of %s is another one, of %d bytes instead of %d", i, source, len(p), len(want))
	}
	if i != a[source] {
		return fmt.Errorf("message %d of %s came instead of %d", i, source, a[source])
	}
	a[source]++
	return nil
}

// sendNumbered sends n messages, every third in pieces.
func sendNumbered(c *Conn, source string, n int) error {
	for i := range n {
		size := []int{10, 200, 1000, 18000, 600, 30000, 0, 80000}[(i+len(source))%8]
		write := deflateWriters[0]
		if i%3 == 2 {
			write = writeCut(1000, 25000)
		}
		if err := write(c, Text, numbered(source, i, size)); err != nil {
			return fmt.Errorf("message %d of %s: %w", i, source, err)
		}
	}
	return nil
}

// checkHistory parses all that the ends have sent: no message may refer to what its
// receiver does not know.
func checkHistory(t *testing.T, takeover bool, ends ...*end) {
	t.Helper()
	for _, e := range ends {
		var message []wireFrame
		compressed := 0
		for _, f := range e.tap.frames(t, e.write.client) {
			if f.first&0x0F >= opClose {
				continue
			}
			message = append(message, f)
			if f.first&finBit == 0 {
				continue
			}
			if message[0].first&rsv1Bit != 0 {
				var payload strings.Builder
				for _, f := range message {
					payload.WriteString(f.p)
				}
				p, far, err := parseDeflated(payload.String(), e.known)
				if err != nil || far > 1<<e.bits {
					t.Fatalf("a message in %d frames: distance %d, %v", len(message), far, err)
				}
				compressed++
				if takeover {
					e.known = append(e.known, p...)
					e.known = bytes.Clone(e.known[max(0, len(e.known)-1<<e.bits):])
				}
			}
			message = nil
		}
		if compressed == 0 {
			t.Error("nothing was compressed")
		}
	}
}

// tapeDeflate returns a Conn over a transport in memory with compression agreed on.
func tapeDeflate(rw io.ReadWriter, d *Deflate, client bool) *Conn {
	c := newConn(rw, &Options{Deflate: d}, client)
	agreed := d.answer(d.offer())
	c.speak(RFC6455, &agreed)
	return c
}

// benchDeflate runs a benchmark for both roles, with takeover and without, and sizes.
func benchDeflate(b *testing.B, bench func(b *testing.B, d *Deflate, client bool, p []byte)) {
	for _, client := range []bool{false, true} {
		for _, takeover := range []bool{false, true} {
			for _, size := range []int{128, 1 << 10, 16 << 10} {
				b.Run(fmt.Sprintf("client=%t/takeover=%t/%d", client, takeover, size), func(b *testing.B) {
					b.SetBytes(int64(size))
					b.ReportAllocs()
					bench(b, &Deflate{ContextTakeover: takeover, Threshold: -1}, client, sampleText(size, 1))
				})
			}
		}
	}
}

// errStall is how the stream of a peer that sends nothing more ends in these
// tests. A Conn that needs one byte too many to notice a fault returns it
// instead of the *CloseError, so that no test has to wait.
var errStall = errors.New("the peer has stalled")

// A wireStream is a transport in memory. It has no Close: all that a Conn sends
// on it is written before the call returns.
type wireStream struct {
	io.Reader
	io.Writer
}

// A wireCloser is a wireStream that counts how often it is closed.
type wireCloser struct {
	wireStream
	closed int
}

func (w *wireCloser) Close() error { w.closed++; return nil }

// A wireOnce is a stream that reports its end once. A Conn has to remember it,
// above all if it comes together with the last bytes.
type wireOnce struct {
	io.Reader
	ended bool
}

func (w *wireOnce) Read(p []byte) (int, error) {
	if w.ended {
		panic("read behind the end")
	}
	n, err := w.Reader.Read(p)
	w.ended = err != nil
	return n, err
}

// wireChunks are the ways in which a stream may arrive.
var wireChunks = []struct {
	name string
	of   func(io.Reader) io.Reader
}{
	{"whole", func(r io.Reader) io.Reader { return r }},
	{"one byte", iotest.OneByteReader},
	{"halves", iotest.HalfReader},
	{"random", func(r io.Reader) io.Reader { return &wireRandom{r, rand.New(rand.NewPCG(6455, 76))} }},
	{"data with error", iotest.DataErrReader},
}

// A wireRandom reads pieces of random sizes, small and large ones alike.
type wireRandom struct {
	r   io.Reader
	rng *rand.Rand
}

func (w *wireRandom) Read(p []byte) (int, error) {
	n := 1 << w.rng.IntN(bits.Len(uint(len(p))))
	return w.r.Read(p[:n+w.rng.IntN(len(p)-n+1)>>w.rng.IntN(16)])
}

// A wireMessage is a message that a Conn has delivered. Its typ is 0 for the
// stream that Read makes of all messages.
type wireMessage struct {
	typ MessageType
	p   string
}

// wireReads are the ways to read from a Conn. Each returns all messages and the
// error behind them.
var wireReads = []struct {
	name string
	all  func(*Conn) ([]wireMessage, error)
}{
	{"ReadMessage", func(c *Conn) (got []wireMessage, err error) {
		for {
			t, p, err := c.ReadMessage()
			if err != nil {
				return got, err
			}
			got = append(got, wireMessage{t, string(p)})
		}
	}},
	{"AppendMessage", func(c *Conn) (got []wireMessage, err error) {
		dst := []byte("dst")
		for {
			t, p, err := c.AppendMessage(dst)
			if s, ok := strings.CutPrefix(string(p), "dst"); !ok {
				return got, fmt.Errorf("AppendMessage has lost what dst held: %.20q", p)
			} else if err != nil {
				if s != "" {
					err = fmt.Errorf("AppendMessage returned %q along with %w", s, err)
				}
				return got, err
			} else {
				got = append(got, wireMessage{t, s})
			}
			dst = p[:3]
		}
	}},
	{"NextReader", func(c *Conn) (got []wireMessage, err error) {
		for {
			t, r, err := c.NextReader()
			if err != nil {
				return got, err
			}
			p, err := io.ReadAll(r)
			if _, again := r.Read(make([]byte, 1)); again != cmp.Or(err, io.EOF) {
				return got, fmt.Errorf("the reader returned %v, then %v", err, again)
			}
			if err != nil {
				return got, err
			}
			got = append(got, wireMessage{t, string(p)})
		}
	}},
	{"Read", func(c *Conn) ([]wireMessage, error) {
		var all []byte
		p := make([]byte, heldInputSize+1)
		for {
			n, err := c.Read(p)
			all = append(all, p[:n]...)
			if err != nil {
				return []wireMessage{{0, string(all)}}, err
			}
		}
	}},
}

// sameMessages reports whether got are the messages want. If partly, what has
// been streamed of one more may follow.
func sameMessages(got, want []wireMessage, partly bool) bool {
	if len(got) == 1 && got[0].typ == 0 {
		stream := ""
		for _, m := range want {
			stream += m.p
		}
		return got[0].p == stream || partly && strings.HasPrefix(got[0].p, stream)
	}
	return slices.Equal(got, want)
}

// describe returns messages short enough to be printed.
func describe(all []wireMessage) (s []string) {
	for _, m := range all {
		s = append(s, fmt.Sprintf("%d:%d:%.32q", m.typ, len(m.p), m.p))
	}
	return s
}

// wireKey is the masking key in the examples of RFC 6455, section 5.7.
var wireKey = [4]byte{0x37, 0xfa, 0x21, 0x3d}

// A wireFrame is a frame as a test wants it on the wire, be it right or wrong.
// It is encoded without the help of the package.
type wireFrame struct {
	first byte
	p     string
	form  int    // bytes of length behind the second byte: 2, 8, or 0 for the fewest
	claim uint64 // the length announced, if more than len(p)
	wrong bool   // masked where it must not be, or the other way round
	head  bool   // nothing behind the first two bytes is sent
}

func wf(first byte, p string) wireFrame { return wireFrame{first: first, p: p} }

// wfHead returns a frame of which the first two bytes must be enough.
func wfHead(first byte) wireFrame { return wireFrame{first: first, p: "abc", head: true} }

// append appends f. If late, it also appends what f has left out.
func (f wireFrame) append(b []byte, masked, late bool) []byte {
	length := max(f.claim, uint64(len(f.p)))
	form := f.form
	if form == 0 && length > 0xFFFF {
		form = 8
	} else if form == 0 && length > 125 {
		form = 2
	}
	var m byte
	if masked != f.wrong {
		m = 0x80
	}
	end := len(b) + 2
	switch form {
	case 0:
		b = append(b, f.first, m|byte(length))
	case 2:
		b = append(b, f.first, m|126, byte(length>>8), byte(length))
	case 8:
		b = binary.BigEndian.AppendUint64(append(b, f.first, m|127), length)
	}
	if f.head && !late {
		return b[:end]
	}
	p := []byte(f.p)
	if late {
		p = append(p, strings.Repeat("x", int(min(length-uint64(len(p)), 300)))...)
	}
	if m != 0 {
		b = append(b, wireKey[:]...)
		for i := range p {
			p[i] ^= wireKey[i%4]
		}
	}
	return append(b, p...)
}

// parseWire parses what a Conn has sent, which has to be whole frames in the
// shortest form, all masked or none.
func parseWire(b []byte, masked bool) (all []wireFrame, err error) {
	for len(b) > 0 {
		f, header := wireFrame{first: b[0]}, 2
		if len(b) < 2 || b[1]&0x80 != 0 != masked {
			return all, fmt.Errorf("bad header % x", b[:min(len(b), 14)])
		}
		n := uint64(b[1] & 0x7F)
		switch n {
		case 126:
			n, header = uint64(b[2])<<8|uint64(b[3]), 4
		case 127:
			n, header = binary.BigEndian.Uint64(b[2:]), 10
		}
		if header == 4 && n < 126 || header == 10 && n < 65536 {
			return all, fmt.Errorf("length %d in %d bytes", n, header)
		}
		var key [4]byte
		if masked {
			header += copy(key[:], b[header:])
		}
		if uint64(len(b)-header) < n {
			return all, fmt.Errorf("a frame is cut short: % x", b[:min(len(b), 14)])
		}
		p := bytes.Clone(b[header:][:n])
		for i := range p {
			p[i] ^= key[i%4]
		}
		f.p = string(p)
		all, b = append(all, f), b[header+int(n):]
	}
	return all, nil
}

// A wireLoop is an endless stream that repeats b.
type wireLoop struct {
	b    []byte
	i    int
	read int // bytes in all
}

func (w *wireLoop) Read(p []byte) (n int, err error) {
	for n < len(p) {
		k := copy(p[n:], w.b[w.i:])
		w.i = (w.i + k) % len(w.b)
		n += k
	}
	w.read += n
	return n, nil
}

// wirePayloads are what the benchmarks of frames send.
var wirePayloads = []struct {
	name  string
	first byte
	p     string
}{
	{"text 128", finBit | opText, strings.Repeat("a", 128)},
	{"text 16K", finBit | opText, strings.Repeat("a", 16<<10)},
	{"UTF-8 16K", finBit | opText, strings.Repeat("€é", 16<<10/5)},
	{"binary 128", finBit | opBinary, strings.Repeat("a", 128)},
	{"binary 16K", finBit | opBinary, strings.Repeat("a", 16<<10)},
}

// toward returns a frame that the peer of c sends.
func toward(c *Conn, opcode byte, p string) []byte {
	switch {
	case !c.write.hixie:
		return appendFrame(nil, finBit|opcode, []byte(p), !c.write.client)
	case opcode == opClose:
		return []byte{0xFF, 0x00}
	}
	return appendHixie(nil, finBit|opcode, []byte(p))
}

// closing is the payload of a close frame.
func closing(code CloseCode, reason string) string { return string(appendClose(nil, code, reason)) }

// A sent is a frame, or of hixie-76 a message, that a Conn has written.
type sent struct {
	opcode  byte
	payload string
}

// parseSent parses what a Conn of the role and version of c has written.
func parseSent(t testing.TB, c *Conn, b []byte) (frames []sent) {
	t.Helper()
	d := decoder{hixie: c.write.hixie, masked: c.write.client, limit: math.MaxInt64}
	for b = bytes.Clone(b); len(b) > 0; {
		p, n, err := d.next(b)
		if err != nil || n == 0 {
			t.Fatalf("what was written is not valid: %v at %.20q", err, b)
		}
		frames = append(frames, sent{p.opcode, string(p.payload)})
		b = b[n:]
	}
	return frames
}
