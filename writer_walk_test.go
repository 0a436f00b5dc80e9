package websocket

import (
	"fmt"
	"math"
	"math/rand/v2"
	"strings"
	"testing"
)

// A writerWalk does with a writer what a Conn might do, in any order, and keeps what is to come
// of it.
type writerWalk struct {
	*writer
	t      *testing.T
	rnd    *rand.Rand
	n      int            // frames so far
	want   []byte         // what is to be written, without masks
	size   int            // of that with masks
	queue  string         // broadcasts that wait
	queued int            // size of these with masks
	got    []byte         // what has been written
	m      *outgoing      // is open
	on     bool           // broadcasts are retained
	batch  *batch         // is being written
	large  int            // bytes of that which are not the writer's
	ends   map[uint64]int // of all batches, in what is to be written
}

// payload returns one that there is no other of. A few are large.
func (w *writerWalk) payload() []byte {
	w.n++
	n := w.rnd.IntN(300)
	if w.rnd.IntN(100) == 0 {
		n = batchSize + w.rnd.IntN(batchSize)
	}
	return fmt.Appendf(nil, "%d%s", w.n, strings.Repeat("x", n))
}

// frame returns a frame without its mask, and its size with it.
func (w *writerWalk) frame(first byte, p []byte) (frame string, size int) {
	frame = unmaskedFrame(w.codec, first, string(p))
	size = len(frame)
	if w.client && !w.hixie {
		size += 4
	}
	return frame, size
}

// expect notes that a frame is put behind the output.
func (w *writerWalk) expect(first byte, p []byte) {
	frame, size := w.frame(first, p)
	w.want = append(w.want, frame...)
	w.size += size
}

// step does one thing.
func (w *writerWalk) step() {
	switch w.rnd.IntN(9) {
	case 0, 1:
		w.write()
	case 2:
		w.broadcast()
	case 3: // begin a message, or end it
		if w.m == nil {
			w.m = new(outgoing)
			w.begin(w.m, Text)
			return
		}
		first, p, err := w.m.end()
		if err != nil {
			w.t.Fatal(err)
		}
		w.m = nil
		w.end()
		w.expect(first, p)
		w.put(first, p)
		w.unqueueAll()
	case 4:
		w.on = !w.on
		w.retain(w.on)
		w.unqueueAll()
	case 5:
		if !w.hixie {
			w.expect(finBit|opPing, nil)
			w.putControl(opPing, nil)
		}
	case 6, 7:
		if w.batch == nil && w.pending() {
			b := w.take()
			w.batch = &b
		}
	case 8:
		w.finish(w.rnd.IntN(2) == 0)
	}
}

// write puts the next frame of the open message, or a message of its own.
func (w *writerWalk) write() {
	p, first := w.payload(), byte(finBit|opText)
	if w.m != nil {
		var err error
		if first, _, err = w.m.fragment(p); err != nil {
			w.t.Fatal(err)
		}
	}
	w.expect(first, p)
	if w.batch == nil && w.isSmall() && w.rnd.IntN(4) == 0 {
		b := w.takeLarge(first, p)
		w.batch, w.large = &b, len(p)
		if w.hixie && first&finBit != 0 {
			w.large++ // FF stands behind the payload
		}
		return
	}
	w.put(first, p)
	w.unqueueAll()
}

// broadcast puts one behind the output, or into the queue.
func (w *writerWalk) broadcast() {
	p := w.payload()
	frame := w.encode(w.encoding(p, maxWindowBits), nil, finBit|opText, p)
	waits := w.on || w.m != nil
	if w.isEmpty() != (!waits && w.batch == nil && !w.pending()) {
		w.t.Fatalf("empty: %t", w.isEmpty())
	}
	if w.isEmpty() && w.rnd.IntN(2) == 0 {
		w.expect(finBit|opText, p)
		b := w.takeFrame(frame, p)
		w.batch = &b
		return
	}
	if waits {
		unmasked, size := w.frame(finBit|opText, p)
		w.queue, w.queued = w.queue+unmasked, w.queued+size
	} else {
		w.expect(finBit|opText, p)
	}
	if queued := w.enqueue(frame, p); queued != waits {
		w.t.Fatalf("queued: %t", queued)
	}
}

// unqueueAll does what a Conn does when broadcasts may not have to wait any more.
func (w *writerWalk) unqueueAll() {
	moves := w.queue != "" && w.m == nil && !w.on
	if got := w.unqueue(true); got != moves {
		w.t.Fatalf("unqueue returned %t", got)
	}
	if moves {
		w.want, w.size = append(w.want, w.queue...), w.size+w.queued
		w.queue, w.queued = "", 0
	}
}

// finish writes the batch that is out: all of it, or a part.
func (w *writerWalk) finish(all bool) {
	if w.batch == nil {
		return
	}
	n := math.MaxInt
	if !all {
		n = w.rnd.IntN(w.sending + w.large + 1)
	}
	w.got = append(w.got, drainPart(w.writer, *w.batch, n)...)
	w.batch, w.large = nil, 0
}

// check compares what the writer tells with what is to be.
func (w *writerWalk) check() {
	w.t.Helper()
	if want := w.size + w.queued - len(w.got) - w.large; w.waiting(0) != want {
		w.t.Fatalf("%d bytes wait, want %d", w.waiting(0), want)
	}
	if w.isBusy() != (w.batch != nil) || !w.isOpen(w.m) {
		w.t.Fatal("busy or open at the wrong time")
	}
	w.ends[w.lastNumber()] = w.size
	for number, end := range w.ends {
		if w.wrote(number) && end > len(w.got) {
			w.t.Fatalf("batch %d counts as written after %d of %d bytes", number, len(w.got), end)
		}
	}
}

func TestWriterWalk(t *testing.T) {
	for _, k := range writerKinds {
		t.Run(k.name, func(t *testing.T) {
			for seed := range uint64(20) {
				w := &writerWalk{writer: newWriter(k.codec, nil), t: t, rnd: rand.New(rand.NewPCG(seed, 0)), ends: make(map[uint64]int)}
				for range 200 {
					w.step()
					w.check()
				}
				for w.on || w.m != nil || w.queue != "" || w.batch != nil || w.pending() {
					w.step()
					w.check()
				}
				if got := unmask(t, k.codec, w.got); got != string(w.want) {
					n := 0
					for n < min(len(got), len(w.want)) && got[n] == w.want[n] {
						n++
					}
					t.Fatalf("seed %d: wrote %d bytes, want %d, alike up to byte %d:\n%.60q\n%.60q", seed, len(got), len(w.want), n, got[n:], w.want[n:])
				}
				if !w.wrote(w.lastNumber()) {
					t.Fatalf("seed %d: the last batch does not count as written", seed)
				}
			}
		})
	}
}
