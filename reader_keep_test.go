package websocket

import (
	"slices"
	"strings"
	"testing"
)

// Messages that have come together share an allocation, but no bytes.
func TestReaderKeep(t *testing.T) {
	const n = 16
	p := []byte("message ")
	var kept [n][]byte
	var r reader
	r.wake()
	if got := testing.AllocsPerRun(10, func() {
		for i := range kept {
			kept[i] = r.keep(p, (n-1-i)*len(p))
		}
	}); got != 1 {
		t.Errorf("%v allocations for %d messages", got, n)
	}
	copy(p, "another ")
	for i := range kept {
		kept[i] = append(kept[i], "longer"...)
		kept[i][0] = byte('A' + i)
	}
	for i, k := range kept {
		if want := string('A'+rune(i)) + "essage longer"; string(k) != want {
			t.Errorf("message %d is %q, want %q", i, k, want)
		}
	}
	if r.spare != nil {
		t.Errorf("%d bytes are held for messages that have not come", len(r.spare))
	}
	for _, tt := range []struct{ size, left, spare int }{{10, 1 << 20, sharedSize - 10}, {sharedSize + 1, 1 << 20, 0}, {10, 5, 5}, {0, 100, 0}} {
		var r reader
		r.wake()
		if got := r.keep(make([]byte, tt.size), tt.left); len(got) != tt.size || len(r.spare) != tt.spare {
			t.Errorf("%d bytes before %d others leave %d spare, want %d", tt.size, tt.left, len(r.spare), tt.spare)
		}
	}
}

// A message is inflated behind what dst holds, and an error leaves that as it was.
func TestReaderInflate(t *testing.T) {
	for _, text := range []string{"", "Hello", string(sampleText(3000, 1))} {
		for _, room := range []int{0, 1, len(text), len(text) + 1} {
			for _, buf := range []*messageBuffer{nil, new(messageBuffer)} {
				f := newFeed(true, false, true, 3000)
				f.r.dec.limit = 3000 // as if a message had come
				dst := append(make([]byte, 0, 3+room), "dst"...)
				if buf != nil {
					dst = buf.grow(nil, 3)[:0]
				}
				want := string(dst) + text
				peer := newPeerDeflater(9)
				for range 2 {
					got, err := f.r.inflate(dst, []byte(peer.message(text)), buf)
					if err != nil || string(got) != want {
						t.Fatalf("%d bytes with room for %d became %d, %v", len(text), room, len(got), err)
					}
				}
				if history := string(f.r.unpack.history); history != text+text {
					t.Fatalf("%d bytes are known after two messages of %d", len(history), len(text))
				}
				long := newPeerDeflater(9).message(strings.Repeat("x", 3001))
				before := string(dst)
				if got, err := f.r.inflate(dst, []byte(long), buf); err == nil || string(got) != before {
					t.Fatalf("what is too big became %q, %v", got, err)
				}
				if buf != nil {
					buf.free()
				}
			}
		}
	}
}

// What a message that is read in pieces leaves behind can be put back, or dropped.
func TestReaderRest(t *testing.T) {
	wire := func(first byte, p string) []byte { return wf(first, p).append(nil, false, false) }
	f := newFeed(true, false, true, 1000)
	if f.r.reads(0) {
		t.Error("a message is read before one has come")
	}
	next := func(first byte, p string) {
		t.Helper()
		if _, n, err := f.r.next(wire(first, p)); n != 2+len(p) || err != nil || !f.r.ready() {
			t.Fatal(n, err)
		}
	}
	next(0x01, "abc")
	one := f.r.begin()
	if !f.r.reads(one) || !f.r.reads(0) || f.r.reads(one+1) || f.r.between() || f.r.refers() {
		t.Error("the message is not the one that is read")
	}
	if f.r.discard() {
		t.Error("the first fragment ends the message")
	}
	next(0x80, "def")
	if !f.r.discard() || f.r.ready() {
		t.Error("the last fragment does not end the message")
	}
	f.r.endStream()
	if f.r.reads(one) || f.r.reads(0) || !f.r.between() {
		t.Error("the message is not over")
	}
	if two := f.r.begin(); two == one || f.r.reads(one) {
		t.Error("two messages have the same number")
	}
	f.r.endStream()

	next(0x01, "abc")
	if p, ok := f.r.takeKept(); ok {
		t.Errorf("%q lies in the input, and was taken as what was put back", p)
	}
	f.r.putBack(append(f.r.take(), "d"...))
	if p, ok := f.r.takeKept(); string(p) != "abcd" || !ok || f.r.ready() {
		t.Errorf("took back %q, %t", p, ok)
	}
	next(0x80, "")
	if _, ok := f.r.takeKept(); ok || !f.r.takeEnd() || f.r.takeEnd() {
		t.Error("the end does not come once")
	}

	next(0xC1, rfcHello)
	var p [5]byte
	n, end, err := f.r.read(p[:3])
	if string(p[:n]) != "Hel" || end || err != nil || !f.r.refers() || !f.r.inflating() {
		t.Fatalf("read %q, %t, %v", p[:n], end, err)
	}
	f.r.read(p[3:])
	f.r.putBackInflated(p[:])
	for _, want := range []string{"Hello", ""} {
		if n, end, err = f.r.read(p[:]); string(p[:n]) != want || end != (want == "") || err != nil {
			t.Errorf("read %q, %t, %v, want %q", p[:n], end, err, want)
		}
	}
	if f.r.inflating() || f.r.refers() || !f.r.between() {
		t.Error("the message is not over")
	}
}

// A reader tells whether another whole message is there, and takes it only between others.
func TestReaderMore(t *testing.T) {
	text := wf(0x81, "abc").append(nil, false, false)
	ping := wf(0x89, "abc").append(nil, false, false)
	begin := wf(0x01, "abc").append(nil, false, false)
	for _, tt := range []struct {
		before, in []byte
		more       bool
		n          int
	}{
		{nil, nil, false, 0},
		{nil, text[:4], false, 0},
		{nil, text, true, len(text)},
		{nil, slices.Concat(text, text[:1]), true, len(text)},
		{nil, ping, true, 0},
		{begin, wf(0x80, "").append(nil, false, false), true, 0},
		{begin[:4], begin[4:], false, 0},
		{text[:4], slices.Concat(text[4:], text), false, 0},
	} {
		f := newFeed(true, false, false, 1000)
		if err := f.add(tt.before, feedTakes[0].take); err != nil {
			t.Fatal(err)
		}
		if got := f.r.more(tt.in); got != tt.more {
			t.Errorf("behind %q there is more in %q: %t", tt.before, tt.in, got)
		}
		if _, _, n := f.r.message(tt.in); n != tt.n {
			t.Errorf("behind %q a message of %q takes %d bytes, want %d", tt.before, tt.in, n, tt.n)
		}
	}
}
