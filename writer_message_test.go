package websocket

import (
	"bytes"
	"strings"
	"testing"
)

// A message in fragments tells the first byte of each, and lets no text pass that is not UTF-8.
func TestOutgoing(t *testing.T) {
	type fragment struct {
		p     string
		first byte
		err   error
	}
	for _, tt := range []struct {
		name      string
		typ       MessageType
		fragments []fragment
		err       error
	}{
		{"no fragment", Text, nil, nil},
		{"text", Text, []fragment{{"a\xe2", 0x01, nil}, {"", 0x00, nil}, {"\x82\xac", 0x00, nil}}, nil},
		{"binary", Binary, []fragment{{"\xff", 0x02, nil}, {"\xe2", 0x00, nil}}, nil},
		{"a fragment that is refused", Text, []fragment{{"\xff", 0, errNotUTF8}, {"a\xe2", 0x01, nil}, {"b", 0, errNotUTF8}, {"\x82\xac", 0x00, nil}}, nil},
		{"the end within a rune", Text, []fragment{{"a\xe2\x82", 0x01, nil}}, errNotUTF8},
	} {
		t.Run(tt.name, func(t *testing.T) {
			w := newWriter(codec{}, nil)
			var m outgoing
			w.begin(&m, tt.typ)
			if !w.isOpen(&m) || w.isOpen(nil) || w.isOpen(new(outgoing)) {
				t.Error("another message is open")
			}
			next := byte(tt.typ)
			for _, f := range tt.fragments {
				first, z, err := m.fragment([]byte(f.p))
				if first != f.first || z != nil || err != f.err {
					t.Errorf("%q begins with %#x, %v, want %#x, %v", f.p, first, err, f.first, f.err)
				}
				if err == nil {
					next = opContinuation
				}
			}
			first, p, err := m.end()
			if first != finBit|next || len(p) > 0 || err != tt.err {
				t.Errorf("the last fragment is %#x %q, %v, want %#x, %v", first, p, err, finBit|next, tt.err)
			}
			w.end()
			if !w.isOpen(nil) {
				t.Error("the message is still open")
			}
		})
	}
}

// The fragments of a compressed message are compressed one at a time, and what is in the making
// keeps others out.
func TestOutgoingDeflate(t *testing.T) {
	d, _ := newDeflation(&Deflate{ContextTakeover: true}, deflateParams{}, false)
	w := newWriter(codec{}, d)
	var known []byte
	for _, text := range []string{string(sampleText(1000, 1)), string(sampleText(900, 1))} {
		var m outgoing
		w.begin(&m, Text)
		payload := ""
		for i, p := range []string{text[:500], text[500:]} {
			first, z, err := m.fragment([]byte(p))
			if want := []byte{rsv1Bit | opText, opContinuation}[i]; first != want || z == nil || err != nil {
				t.Fatalf("fragment %d begins with %#x, %v, want %#x", i, first, err, want)
			}
			if _, _, err := m.fragment(nil); err != errBusy {
				t.Error("another fragment meanwhile returned", err)
			}
			if _, _, err := m.end(); err != errBusy {
				t.Error("the end meanwhile returned", err)
			}
			fragment, err := z.compress([]byte(p))
			if err != nil {
				t.Fatal(err)
			}
			payload += string(fragment)
			w.remember([]byte(p))
			m.keep(z)
		}
		first, last, err := m.end()
		if first != finBit || err != nil {
			t.Fatalf("the last fragment begins with %#x, %v", first, err)
		}
		w.end()
		got, far, err := parseDeflated(payload+string(last), known)
		if string(got) != text || err != nil || len(known) > 0 && far < len(text) {
			t.Fatalf("the message became %.40q, with a distance of %d, %v", got, far, err)
		}
		known = append(known, text...)
	}
}

// What may refer to messages before it keeps others back until it is sent, and broadcasts, which
// refer to none, let the next one begin anew.
func TestWriterDeflate(t *testing.T) {
	p := sampleText(1000, 1)
	for _, takeover := range []bool{false, true} {
		d, _ := newDeflation(&Deflate{ContextTakeover: takeover}, deflateParams{}, false)
		w := newWriter(codec{}, d)
		if !w.compresses(p) || w.compresses(p[:10]) || newWriter(codec{}, nil).compresses(p) {
			t.Error("the wrong messages are compressed")
		}
		w.remember(p)
		_, history, ordered := w.compress()
		if ordered != takeover || w.isOpen(nil) == takeover || bytes.Equal(history, p) != takeover {
			t.Fatalf("takeover: %t, ordered: %t, %d bytes of history", takeover, ordered, len(history))
		}
		frame := w.encode(w.encoding(p, maxWindowBits), nil, finBit|opText, p)
		if queued := w.enqueue(frame, p); queued != takeover {
			t.Fatalf("takeover: %t, a broadcast is queued: %t", takeover, queued)
		}
		if len(d.history) != len(history) {
			t.Errorf("a broadcast has made %d bytes of history %d before it is sent", len(history), len(d.history))
		}
		w.end()
		w.put(finBit|opText, []byte("first"))
		if w.unqueue(true) != takeover {
			t.Error("the queue is not as it should be")
		}
		if len(d.history) > 0 {
			t.Errorf("%d bytes are known after a broadcast", len(d.history))
		}
		got, err := parseWire(drainWriter(w), false)
		if !takeover && err == nil { // the broadcast did not wait
			got[0], got[1] = got[1], got[0]
		}
		if err != nil || len(got) != 2 || got[0] != wf(0x81, "first") || got[1].first != 0xC1 {
			t.Fatalf("wrote %.60v, %v", got, err)
		}
		if q, _, err := parseDeflated(got[1].p, nil); !bytes.Equal(q, p) || err != nil {
			t.Errorf("the broadcast became %.40q, %v", q, err)
		}
		// One that is sent at once counts as one of the messages.
		w.enqueue(frame, p)
		if bytes.Equal(d.history, p) != takeover {
			t.Errorf("takeover: %t, %d bytes are known after a broadcast that was sent at once", takeover, len(d.history))
		}
	}
}

// A broadcast is compressed for those connections that it is compressed alike for.
func TestWriterEncoding(t *testing.T) {
	p := sampleText(1000, 1)
	usual, _ := newDeflation(nil, deflateParams{}, false)
	small, _ := newDeflation(nil, deflateParams{serverBits: 10}, false)
	for _, tt := range []struct {
		w    *writer
		p    []byte
		want encoding
	}{
		{newWriter(codec{}, nil), p, encodePlain},
		{newWriter(codec{hixie: true}, nil), p, encodeHixie},
		{newWriter(codec{}, usual), p, encodeCompressed},
		{newWriter(codec{}, usual), p[:10], encodePlain},
		{newWriter(codec{}, small), p, encodePlain},
	} {
		e := tt.w.encoding(tt.p, maxWindowBits)
		if e != tt.want {
			t.Errorf("the encoding is %d, want %d", e, tt.want)
		}
		frame := string(tt.w.encode(e, []byte("before"), finBit|opText, tt.p))
		if plain := "before" + unmaskedFrame(tt.w.codec, finBit|opText, string(tt.p)); (frame == plain) != (e != encodeCompressed) {
			t.Errorf("encoding %d has made %.60q of %.60q", e, frame, plain)
		}
	}
}

// Broadcasts that cannot be sent any more are dropped.
func TestWriterDrop(t *testing.T) {
	w := newWriter(codec{}, nil)
	w.retain(true)
	p := []byte("dropped")
	w.enqueue(w.encode(encodePlain, nil, finBit|opText, p), p)
	if w.waiting(0) != 9 || w.pending() || w.unqueue(true) {
		t.Errorf("%d bytes wait, want 9", w.waiting(0))
	}
	w.retain(false)
	if !w.unqueue(false) || w.unqueue(false) || w.waiting(0) != 0 || w.pending() {
		t.Errorf("%d bytes wait when all is dropped", w.waiting(0))
	}
}

// A close frame is no part of a text of hixie-76.
func TestWriterEndable(t *testing.T) {
	for _, k := range writerKinds {
		w := newWriter(k.codec, nil)
		var m outgoing
		w.begin(&m, Text)
		w.putClose(CloseNormal, "")
		if w.endable() == k.hixie || w.pending() == k.hixie {
			t.Errorf("%s: within a message a close frame can be sent: %t", k.name, w.endable())
		}
		w.end()
		w.putClose(CloseNormal, "")
		if !w.endable() || !w.pending() {
			t.Errorf("%s: no close frame behind a message", k.name)
		}
	}
}

// Control frames do not pile up: from 64 KiB on somebody has to wait.
func TestWriterControls(t *testing.T) {
	w := newWriter(codec{client: true}, nil)
	p := make([]byte, maxControl)
	for range 2 {
		w.put(finBit|opText, make([]byte, 2*batchSize)) // which does not count
		n := 0
		for !w.putControl(opPong, p) {
			n++
		}
		if size := len(p) + 6; n != (batchSize-1)/size {
			t.Errorf("%d of %d bytes each are enough", n, size)
		}
		drainWriter(w)
	}
}

// Output waits for more only if more is expected, and not once it is large.
func TestWriterHold(t *testing.T) {
	w := newWriter(codec{}, nil)
	check := func(held, crowded bool) {
		t.Helper()
		if h, c := w.replies(); h != held || c != crowded {
			t.Errorf("held: %t, crowded: %t, want %t, %t", h, c, held, crowded)
		}
	}
	w.put(finBit|opText, nil)
	if w.hold(false) {
		t.Error("output waits for nothing")
	}
	check(false, false)
	if !w.hold(true) {
		t.Error("output does not wait")
	}
	check(true, false)
	drainWriter(w)
	check(false, false)
	w.put(finBit|opText, []byte(strings.Repeat("x", batchSize)))
	if w.hold(true) {
		t.Error("much output waits")
	}
	w.crowd()
	check(false, true)

	if !w.claim() || w.claim() {
		t.Error("the output is not claimed once")
	}
	w.unclaim()
	if !w.claim() {
		t.Error("the output cannot be claimed again")
	}
}

// One goroutine at a time writes late, and a timer that runs is set again only to fire at once.
func TestWriterLate(t *testing.T) {
	for _, tt := range []struct {
		before                lateness
		postpone, rush, begin bool
		after                 lateness
	}{
		{lateIdle, true, true, true, lateArmed},
		{lateArmed, false, true, true, lateArmed},
		{lateRunning, false, false, false, lateRunning},
	} {
		w := &writer{late: tt.before}
		if got := w.postpone(false); got != tt.postpone || w.late != tt.after {
			t.Errorf("%d: postponed: %t, then %d", tt.before, got, w.late)
		}
		w.late = tt.before
		if got := w.postpone(true); got != tt.rush || w.late != tt.after {
			t.Errorf("%d: postponed at once: %t, then %d", tt.before, got, w.late)
		}
		w.late = tt.before
		if got := w.beginLate(); got != tt.begin || w.late != lateRunning {
			t.Errorf("%d: begun: %t, then %d", tt.before, got, w.late)
		}
		if w.endLate(); w.late != lateIdle {
			t.Errorf("%d: ended as %d", tt.before, w.late)
		}
	}
}
