package websocket

import (
	"bytes"
	"fmt"
	"math"
	"strings"
	"testing"
)

// writerKinds are the ways in which a writer writes frames.
var writerKinds = []struct {
	name string
	codec
}{
	{"server", codec{}},
	{"client", codec{client: true}},
	{"hixie-76 server", codec{hixie: true}},
	{"hixie-76 client", codec{client: true, hixie: true}},
}

func newWriter(k codec, d *deflater) *writer {
	w := new(writer)
	w.init(k.client)
	w.speak(k.hixie, d)
	return w
}

// unmaskedFrame returns what a frame looks like without a mask.
func unmaskedFrame(k codec, first byte, p string) string {
	if !k.hixie {
		return string(wf(first, p).append(nil, false, false))
	}
	if first&opcodeBits != 0 {
		p = "\x00" + p
	}
	if first&finBit != 0 {
		p += "\xff"
	}
	return p
}

// unmask returns whole frames without their masks.
func unmask(t *testing.T, k codec, b []byte) string {
	t.Helper()
	if !k.client || k.hixie {
		return string(b)
	}
	frames, err := parseWire(b, true)
	if err != nil {
		t.Fatal(err)
	}
	b = nil
	for _, f := range frames {
		b = f.append(b, false, false)
	}
	return string(b)
}

// drainPart returns the first n bytes of a batch, if there are so many, and gives the rest back.
func drainPart(w *writer, b batch, n int) (part []byte) {
	for more := true; more; {
		var head, tail []byte
		head, tail, more = b.next()
		h := min(n-len(part), len(head))
		part = append(part, head[:h]...)
		t := min(n-len(part), len(tail))
		part = append(part, tail[:t]...)
		if h < len(head) || t < len(tail) {
			b.retain(head[h:], tail[t:], more)
			w.giveBack(b, false)
			return part
		}
	}
	w.giveBack(b, true)
	return part
}

// drainWriter takes and writes all output.
func drainWriter(w *writer) (all []byte) {
	for w.pending() {
		all = append(all, drainPart(w, w.take(), math.MaxInt)...)
	}
	return all
}

// What is put comes out in its order, and what a batch has not written goes before what was put
// meanwhile.
func TestWriter(t *testing.T) {
	for _, k := range writerKinds {
		t.Run(k.name, func(t *testing.T) {
			w := newWriter(k.codec, nil)
			var got []byte
			want := ""
			put := func(first byte, p string) {
				want += unmaskedFrame(k.codec, first, p)
				w.put(first, []byte(p))
			}
			if w.pending() || w.isBusy() || w.waiting(0) != 0 || !w.isEmpty() || !w.wrote(w.lastNumber()) {
				t.Error("a new writer is not empty")
			}
			w.putBytes([]byte("HTTP/1.1 101\r\n"))
			drainPart(w, w.take(), 100)
			put(0x81, "one")
			put(0x81, "")
			put(0x01, strings.Repeat("long", 50))
			put(0x80, "end")
			first := w.lastNumber()
			b := w.take()
			if w.pending() || !w.isBusy() || w.isEmpty() || w.wrote(first) {
				t.Error("the batch is not out")
			}
			put(0x81, "meanwhile")
			second, waiting := w.lastNumber(), w.waiting(0)
			if w.waiting(3) != waiting-3 {
				t.Errorf("%d bytes wait when 3 of %d have been taken", w.waiting(3), waiting)
			}
			got = append(got, drainPart(w, b, 3)...)
			if !w.pending() || w.isBusy() || w.wrote(first) || w.waiting(0) != waiting-3 {
				t.Errorf("%d bytes wait when 3 of %d have been written", w.waiting(0), waiting)
			}
			got = append(got, drainPart(w, w.take(), 10)...)
			if w.wrote(first) || w.lastNumber() != second || w.waiting(0) != waiting-13 {
				t.Errorf("%d bytes wait when 13 of %d have been written", w.waiting(0), waiting)
			}
			if !k.hixie {
				want += unmaskedFrame(k.codec, finBit|opPing, "ping")
				if w.putControl(opPing, []byte("ping")) {
					t.Error("one control frame is too many")
				}
			}
			w.putClose(CloseNormal, "bye")
			got = append(got, drainWriter(w)...)
			if !k.hixie {
				want += unmaskedFrame(k.codec, finBit|opClose, closing(CloseNormal, "bye"))
			} else {
				want += "\xff\x00"
			}
			if unmask(t, k.codec, got) != want {
				t.Errorf("wrote %q, want %q", got, want)
			}
			if w.pending() || w.isBusy() || w.waiting(0) != 0 || !w.isEmpty() || !w.wrote(w.lastNumber()) {
				t.Error("the writer is not empty any more")
			}
		})
	}
}

// The payload of a large frame is written from where it lies, or in pieces that are bounded.
func TestWriterLarge(t *testing.T) {
	for _, k := range writerKinds {
		for _, before := range []int{0, 100, batchSize - 100} {
			for _, first := range []byte{0x81, 0x01, 0x00, 0x80} {
				t.Run(fmt.Sprintf("%s/%d/%#x", k.name, before, first), func(t *testing.T) {
					w := newWriter(k.codec, nil)
					p := bytes.Repeat([]byte("large"), batchSize)
					w.put(0x81, p[:before])
					want := unmaskedFrame(k.codec, 0x81, string(p[:before])) + unmaskedFrame(k.codec, first, string(p))
					waiting := w.waiting(0)
					b := w.takeLarge(first, p)
					if n := w.waiting(0) - waiting; n < 0 || n > maxHeader || !w.isBusy() || w.pending() {
						t.Errorf("%d bytes wait besides the payload", n)
					}
					var got []byte
					var pieces int
					for more := true; more; pieces++ {
						var head, tail []byte
						head, tail, more = b.next()
						got = append(append(got, head...), tail...)
						limit := batchSize + maxHeader + 1
						if pieces == 0 {
							limit = max(limit, waiting+maxHeader)
						}
						if k.client || k.hixie {
							if len(head) > limit || len(tail) > 0 {
								t.Fatalf("a piece has %d bytes", len(head)+len(tail))
							}
						} else if more || len(tail) != len(p) || &tail[0] != &p[0] {
							t.Fatal("the payload is not written from where it lies")
						}
					}
					if n := len(p)/batchSize + 1; (k.client || k.hixie) && pieces > n+1 {
						t.Errorf("%d pieces", pieces)
					}
					w.giveBack(b, true)
					if unmask(t, k.codec, got) != want || !bytes.Equal(p, bytes.Repeat([]byte("large"), batchSize)) {
						t.Error("another frame was written, or the payload has changed")
					}
					if w.waiting(0) != 0 || !w.wrote(w.lastNumber()) {
						t.Errorf("%d bytes wait behind the last", w.waiting(0))
					}
				})
			}
		}
	}
}

// What waits for a peer that never reads, or slowly, takes about as much memory as it has bytes.
func TestWriterMemory(t *testing.T) {
	const limit = 1 << 20
	for _, size := range []int{10, 1000, 100_000, limit} {
		for _, step := range []int{0, 1, 1000, 100_000} { // bytes that the peer takes at a time
			w := newWriter(codec{}, nil)
			p := make([]byte, size)
			frame := w.encode(encodePlain, nil, finBit|opBinary, p)
			drainPart(w, w.takeFrame(frame, p), step)
			for round := range 50 {
				for w.waiting(0)+len(frame) <= limit+maxHeader {
					w.enqueue(frame, p)
				}
				held := 0
				for o := w.first; o != nil; o = o.next {
					held += cap(o.b)
				}
				if held > limit*3/2 {
					t.Fatalf("frames of %d bytes, read by %d: after %d rounds %d bytes wait in %d", size, step, round, w.waiting(0), held)
				}
				if step > 0 {
					drainPart(w, w.take(), step)
				}
			}
		}
	}
}
