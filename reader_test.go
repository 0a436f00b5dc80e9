package websocket

import (
	"bytes"
	"fmt"
	"math"
	"slices"
	"strings"
	"testing"
)

// A feed gives a reader bytes as they might arrive, and keeps the messages and the control
// frames that come out.
type feed struct {
	r     *reader
	rests bool   // it rests whenever it can
	in    []byte // has not been used
	need  int    // that the reader has asked for last
	part  []byte // of the message in progress
	got   []sent
}

// newFeed returns a feed for a reader of either role, that lets messages have limit bytes and be
// compressed.
func newFeed(client, hixie, takeover bool, limit uint64) *feed {
	f := &feed{r: new(reader)}
	f.r.init(client, limit)
	_, u := newDeflation(nil, paramsWith(takeover), client)
	if hixie {
		u = nil
	}
	f.r.speak(hixie, u)
	return f
}

// add gives the reader more bytes, and takes what is ready in one of the ways of feedTakes.
func (f *feed) add(p []byte, take func(*feed) error) error {
	f.in = append(slices.Clip(f.in), p...) // which leaves what was given before as it is
	for {
		if err := take(f); err != nil {
			return err
		}
		if f.r.ready() {
			return fmt.Errorf("something is ready after all has been taken")
		}
		if f.rests && f.r.between() && !f.r.inflating() {
			f.r.rest()
			f.r.wake()
		}
		p, n, err := f.r.next(f.in)
		if err != nil || n == 0 {
			f.need = p.need
			return err
		}
		f.in = f.in[n:]
		if p.opcode >= opClose {
			f.got = append(f.got, sent{p.opcode, string(p.payload)})
		}
	}
}

func (f *feed) message(t MessageType, p []byte) {
	f.got, f.part = append(f.got, sent{byte(t), string(p)}), nil
}

// feedTakes are the ways to take messages from a reader.
var feedTakes = []struct {
	name string
	take func(*feed) error
}{
	{"take", (*feed).takeChunk},
	{"message", func(f *feed) error {
		for {
			t, p, n := f.r.message(f.in)
			if n == 0 {
				return f.takeChunk()
			}
			f.message(t, p)
			f.in = f.in[n:]
		}
	}},
	{"read", func(f *feed) error {
		for f.r.ready() || f.r.inflating() {
			var p [3]byte
			n, end, err := f.r.read(p[:])
			if f.part = append(f.part, p[:n]...); end {
				f.message(f.r.messageType(), f.part)
			} else if n == 0 || err != nil {
				return err
			}
		}
		return nil
	}},
}

func (f *feed) takeChunk() (err error) {
	packed := f.r.isPacked()
	p, whole := f.r.whole()
	if !whole {
		f.part = append(f.part, f.r.take()...)
		return nil
	}
	if p = append(f.part, p...); packed {
		p, err = f.r.inflate(nil, p, nil)
	}
	if err == nil {
		f.message(f.r.messageType(), p)
	}
	return err
}

// feedCuts returns the ways in which wire may arrive: whole, one byte at a time, and cut in two
// anywhere.
func feedCuts(wire []byte) (cuts [][][]byte) {
	cuts = append(cuts, slices.Collect(slices.Chunk(wire, 1)))
	for i := range wire {
		cuts = append(cuts, [][]byte{wire[:i], wire[i:]})
	}
	return cuts
}

// run gives f all pieces.
func (f *feed) run(pieces [][]byte, take func(*feed) error) error {
	for _, p := range pieces {
		if err := f.add(p, take); err != nil {
			return err
		}
	}
	return nil
}

// However bytes arrive, and in whatever way they are taken, the same comes out of them.
func TestReader(t *testing.T) {
	ping, pong, bye := sent{opPing, "ping"}, sent{opPong, ""}, sent{opClose, closing(CloseNormal, "bye")}
	sample := string(sampleText(300, 1))
	packed := func(client bool) []byte { b, _ := packedWire(client, sample); return b }
	frames := func(all ...wireFrame) func(bool) []byte {
		return func(client bool) (b []byte) {
			for _, f := range all {
				b = f.append(b, !client, false)
			}
			return b
		}
	}
	for _, tt := range []struct {
		name            string
		hixie, takeover bool
		wire            func(client bool) []byte
		want            []sent
	}{
		{"nothing", false, false, frames(), nil},
		{"one text", false, false, frames(wf(0x81, "a€")), []sent{{opText, "a€"}}},
		{"messages", false, false, frames(wf(0x81, "a€"), wf(0x82, "\xff\x00"), wf(0x82, strings.Repeat("b", 130)), wireFrame{first: 0x81, p: "c", form: 8}),
			[]sent{{opText, "a€"}, {opBinary, "\xff\x00"}, {opBinary, strings.Repeat("b", 130)}, {opText, "c"}}},
		{"empty messages", false, false, frames(wf(0x81, ""), wf(0x02, ""), wf(0x00, ""), wf(0x80, ""), wf(0xC1, "\x00"), wf(0x42, ""), wf(0x80, "\x00"), wf(0x81, "")),
			[]sent{{opText, ""}, {opBinary, ""}, {opText, ""}, {opBinary, ""}, {opText, ""}}},
		{"fragments", false, false, frames(wf(0x01, "a\xe2"), wf(0x89, "ping"), wf(0x00, ""), wf(0x00, "\x82"), wf(0x8A, ""), wf(0x89, "ping"), wf(0x80, "\xacb"), wf(0x88, bye.payload)),
			[]sent{ping, pong, ping, {opText, "a€b"}, bye}},
		{"compressed", false, false, frames(wf(0xC1, rfcHello), wf(0x81, "plain"), wf(0xC2, rfcStored), wf(0xC1, rfcFinal), wf(0xC1, rfcTwoBlocks), wf(0x88, "")),
			[]sent{{opText, "Hello"}, {opText, "plain"}, {opBinary, "Hello"}, {opText, "Hello"}, {opText, "Hello"}, {opClose, ""}}},
		{"compressed, with a context", false, true, frames(wf(0xC1, rfcHello), wf(0x81, "plain"), wf(0xC1, rfcShared), wf(0xC1, rfcShared)),
			[]sent{{opText, "Hello"}, {opText, "plain"}, {opText, "Hello"}, {opText, "Hello"}}},
		{"compressed, in fragments", false, false, frames(wf(0x41, rfcHello[:3]), wf(0x89, "ping"), wf(0x00, ""), wf(0x80, rfcHello[3:]), wf(0x42, rfcFinal), wf(0x80, "")),
			[]sent{ping, {opText, "Hello"}, {opBinary, "Hello"}}},
		{"compressed, in fragments, with a context", false, true, packed, []sent{ping, {opText, sample}, {opText, sample}, {opText, sample}}},
		{"hixie-76", true, false, func(bool) []byte {
			return []byte("\x00a€\xff\x00\xff\x01no text\xff\x80\x03\xff\xff\xff\x80\x00\x00b\xff\xff\x00")
		},
			[]sent{{opText, "a€"}, {opText, ""}, {opText, "b"}, {opClose, ""}}},
	} {
		for _, way := range feedTakes {
			t.Run(tt.name+"/"+way.name, func(t *testing.T) {
				check := func(f *feed, how string, err error) {
					t.Helper()
					if err != nil || !slices.Equal(f.got, tt.want) {
						t.Fatalf("%s, %v:\ngot  %q\nwant %q", how, err, f.got, tt.want)
					}
					if len(f.in) > 0 || !f.r.between() || f.r.within() || f.r.inflating() || cap(f.r.chunk) > 0 {
						t.Fatalf("%s, something is left behind the last message", how)
					}
				}
				for _, client := range []bool{false, true} {
					wire := tt.wire(client)
					for i, pieces := range feedCuts(wire) {
						f := newFeed(client, tt.hixie, tt.takeover, 1000)
						err := f.run(pieces, way.take)
						check(f, fmt.Sprintf("client: %t, cut %d", client, i), err)
					}
					f := newFeed(client, tt.hixie, tt.takeover, 1000)
					f.rests = true
					err := f.add(nil, way.take)
					for rest := wire; len(rest) > 0 && err == nil; {
						n := f.need
						if n < 1 || n > len(rest) {
							t.Fatalf("it needs %d of %d bytes", n, len(rest))
						}
						err = f.add(rest[:n], way.take)
						rest = rest[n:]
					}
					check(f, "as needed", err)
				}
			})
		}
	}
}

// A fault counts as soon as it can be seen, and not before what comes in front of it.
func TestReaderFaults(t *testing.T) {
	zeros := newPeerDeflater(9).message(strings.Repeat("\x00", 101))
	for _, tt := range []struct {
		name   string
		frames []wireFrame
		code   CloseCode
	}{
		{"a reserved bit", []wireFrame{wf(0xA1, "")}, CloseProtocolError},
		{"a compressed continuation", []wireFrame{wf(0x01, "a"), wf(0xC0, "")}, CloseProtocolError},
		{"a compressed ping", []wireFrame{wf(0xC9, "")}, CloseProtocolError},
		{"a reserved opcode", []wireFrame{wfHead(0x83)}, CloseProtocolError},
		{"a mask of the wrong role", []wireFrame{{first: 0x81, p: "a", wrong: true}}, CloseProtocolError},
		{"a ping in fragments", []wireFrame{wfHead(0x09)}, CloseProtocolError},
		{"a long ping", []wireFrame{{first: 0x89, claim: 126, head: true}}, CloseProtocolError},
		{"nothing to continue", []wireFrame{wfHead(0x80)}, CloseProtocolError},
		{"nothing to continue any more", []wireFrame{wf(0x01, "a"), wf(0x80, "b"), wfHead(0x00)}, CloseProtocolError},
		{"a message within another", []wireFrame{wf(0x01, "a"), wf(0x89, ""), wfHead(0x81)}, CloseProtocolError},
		{"a message that is too big", []wireFrame{{first: 0x82, claim: 101}}, CloseMessageTooBig},
		{"fragments that are too big", []wireFrame{wf(0x02, strings.Repeat("a", 100)), {first: 0x00, claim: 1}}, CloseMessageTooBig},
		{"a message that becomes too big", []wireFrame{wf(0xC2, zeros)}, CloseMessageTooBig},
		{"text that is not UTF-8", []wireFrame{wf(0x81, "a\xff")}, CloseInvalidPayload},
		{"text that ends within a rune", []wireFrame{wf(0x01, "\xe2\x82"), wf(0x80, "")}, CloseInvalidPayload},
		{"compressed text that is not UTF-8", []wireFrame{wf(0xC1, newPeerDeflater(9).message("\xff"))}, CloseInvalidPayload},
		{"compressed text that ends within a rune", []wireFrame{wf(0xC1, newPeerDeflater(9).message("\xe2\x82"))}, CloseInvalidPayload},
		{"a message that is not compressed", []wireFrame{wf(0xC2, "\x07")}, CloseInvalidPayload},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for _, client := range []bool{false, true} {
				wire := wf(0x81, "first").append(nil, !client, false)
				for _, f := range tt.frames {
					wire = f.append(wire, !client, false)
				}
				for _, way := range feedTakes {
					for i, pieces := range feedCuts(wire) {
						f := newFeed(client, false, false, 100)
						err := f.run(pieces, way.take)
						if e, ok := err.(*CloseError); !ok || e.Code != tt.code || e.by != byFailure {
							t.Fatalf("%s, client: %t, cut %d: got %v, want %v", way.name, client, i, err, tt.code)
						}
						if len(f.got) == 0 || f.got[0] != (sent{opText, "first"}) {
							t.Fatalf("%s, client: %t, cut %d: got %q", way.name, client, i, f.got)
						}
						f.r.stop()
					}
				}
			}
		})
	}
}

// Payload that goes straight to its place is the same as that from the input, and is checked
// alike.
func TestReaderDirect(t *testing.T) {
	text := strings.Repeat("a€b", 30)
	for _, client := range []bool{false, true} {
		for _, end := range []string{"", "\xff"} {
			for step := 1; step < 10; step++ {
				f := newFeed(client, false, false, math.MaxInt64)
				p := []byte(text + end)
				wire := wf(0x80, string(p[10:])).append(wf(0x01, string(p[:10])).append(nil, !client, false), !client, false)
				head := len(wire) - (len(p) - 10) + 3
				if err := f.add(wire[:head], feedTakes[0].take); err != nil {
					t.Fatal(err)
				}
				left := len(wire) - head
				if got := f.r.direct(left); got != uint64(left) {
					t.Fatalf("%d bytes are to come, want %d", got, left)
				}
				if got := f.r.direct(left + 1); got != 0 {
					t.Fatalf("%d bytes are more than %d", got, left)
				}
				var err error
				for rest := wire[head:]; len(rest) > 0 && err == nil; {
					if f.r.ready() || f.r.direct(1) != uint64(len(rest)) {
						t.Fatalf("%d bytes are to come, want %d", f.r.direct(1), len(rest))
					}
					q := bytes.Clone(rest[:min(len(rest), step)])
					rest = rest[len(q):]
					err = f.r.directed(q)
					f.part = append(f.part, q...)
				}
				if end != "" {
					if e, ok := err.(*CloseError); !ok || e.Code != CloseInvalidPayload {
						t.Fatal("got", err)
					}
					continue
				}
				if err != nil || string(f.part) != text || f.r.direct(0) != 0 || !f.r.takeEnd() || !f.r.between() {
					t.Fatalf("client: %t, step %d: got %q, %v", client, step, f.part, err)
				}
			}
		}
	}
}
