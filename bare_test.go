package websocket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// A bareStream is a stream in memory that counts its calls.
type bareStream struct {
	memStream
	reads     int
	deadlines int
	closed    bool
}

func newBareStream(in string) *bareStream {
	return &bareStream{memStream: memStream{Reader: strings.NewReader(in)}}
}

func (s *bareStream) Read(p []byte) (int, error) {
	s.reads++
	return s.memStream.Read(p)
}

func (s *bareStream) Close() error                     { s.closed = true; return nil }
func (s *bareStream) SetDeadline(time.Time) error      { s.deadlines++; return nil }
func (s *bareStream) SetReadDeadline(time.Time) error  { s.deadlines++; return nil }
func (s *bareStream) SetWriteDeadline(time.Time) error { s.deadlines++; return nil }

// clientFrames returns frames as a client sends them.
func clientFrames(all ...wireFrame) (in []byte) {
	for _, f := range all {
		in = f.append(in, true, false)
	}
	return in
}

// TestExactReads shows that GetFrame takes no byte behind its message from a
// bare stream, however the stream delivers, and keeps nothing back.
func TestExactReads(t *testing.T) {
	messages := [][]wireFrame{
		{wf(0x81, "a")},
		{wf(0x81, "")},
		{wf(0x89, "1"), wf(0x01, "\xe2"), wf(0x89, "2"), wf(0x00, ""), wf(0x80, "\x82\xac")},
		{wf(0x82, strings.Repeat("b", 126))},
		{{first: 0x82, p: strings.Repeat("c", 70_000)}},
		{{first: 0x82, p: "d", form: 8}},
	}
	for _, chunk := range wireChunks {
		if chunk.name == "data with error" {
			continue // reads ahead itself
		}
		var in []byte
		var ends []int
		for _, m := range messages {
			for _, f := range m {
				in = f.append(in, true, false)
			}
			ends = append(ends, len(in))
		}
		rest := bytes.NewReader(in)
		for i, m := range messages {
			want := ""
			for _, f := range m {
				if f.first != 0x89 {
					want += f.p
				}
			}
			// A new wrapper each time: GetFrame is to ask for no more than it needs.
			p, err := GetFrame(wireStream{chunk.of(rest), io.Discard})
			if err != nil || string(p) != want || p == nil {
				t.Fatalf("%s: message %d is %.20q, %v", chunk.name, i, p, err)
			}
			if read := len(in) - rest.Len(); read != ends[i] {
				t.Fatalf("%s: message %d ends at %d, %d bytes were read", chunk.name, i, ends[i], read)
			}
		}
		if p, err := GetFrame(wireStream{chunk.of(rest), io.Discard}); p != nil || err != io.EOF {
			t.Errorf("%s: at the end: %q, %v", chunk.name, p, err)
		}
	}
}

// From a bare stream a message costs the allocation that the caller keeps, however it comes, and
// to one, nothing.
func TestBareAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget")
	}
	large := strings.Repeat("a", 16<<10)
	for name, in := range map[string][]byte{
		"text":      clientFrames(wf(0x81, large[:128])),
		"short":     clientFrames(wf(0x82, large[:16])),
		"large":     clientFrames(wf(0x82, large)),
		"fragments": clientFrames(wf(0x01, large), wf(0x00, large[:100]), wf(0x89, "ping"), wf(0x80, large)),
	} {
		rw := io.ReadWriter(wireStream{&wireLoop{b: in}, io.Discard})
		n := testing.AllocsPerRun(100, func() {
			if _, err := GetFrame(rw); err != nil {
				t.Fatal(err)
			}
		})
		if n > 1 {
			t.Errorf("GetFrame of a message %q: %v allocations", name, n)
		}
	}
	for _, size := range []int{0, 128, 16 << 10} {
		var w io.Writer = wireStream{nil, io.Discard}
		p := []byte(large[:size])
		if n := testing.AllocsPerRun(100, func() { PutFrame(w, p) }); n > 0 {
			t.Errorf("PutFrame of %d bytes: %v allocations", size, n)
		}
	}
}

// What a call returns is the caller's: the next calls do not change it.
func TestBareKept(t *testing.T) {
	t.Parallel()
	rw := newBareStream(string(clientFrames(wf(0x81, "first"), wf(0x01, "sec"), wf(0x80, "ond"), wf(0x81, ""), wf(0x81, "third"))))
	var kept [][]byte
	for range 4 {
		p, err := GetFrame(rw)
		if err != nil {
			t.Fatal(err)
		}
		kept = append(kept, p)
	}
	if got := string(bytes.Join(kept, []byte("|"))); got != "first|second||third" {
		t.Error("kept", got)
	}
}

// A frame takes as few reads as can be without reading too far.
func TestBareReads(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		f     wireFrame
		reads int
	}{
		{wf(0x81, ""), 2},
		{wf(0x81, strings.Repeat("a", 125)), 2}, // the length, and all else
		{wf(0x81, strings.Repeat("a", 126)), 3}, // the long form of the length
		{wf(0x81, strings.Repeat("a", 4000)), 3},
	} {
		rw := newBareStream(string(clientFrames(tt.f)))
		if p, err := GetFrame(rw); string(p) != tt.f.p || err != nil || rw.reads != tt.reads {
			t.Errorf("%d bytes: got %d after %d reads, want %d reads, %v", len(tt.f.p), len(p), rw.reads, tt.reads, err)
		}
	}
}

// A bare stream is the caller's: it is not closed, and its deadlines stay.
func TestBareLeft(t *testing.T) {
	t.Parallel()
	rw := newBareStream(rfcHead + string(clientFrames(wf(0x89, "ping"), wf(0x81, "a"), wfClose(1000, ""))))
	if _, err := ShakeHands(rw); err != nil {
		t.Fatal(err)
	}
	rw.out.Reset()
	if p, err := GetFrame(rw); string(p) != "a" || err != nil {
		t.Errorf("got %q, %v", p, err)
	}
	if err := PutFrame(rw, []byte("b")); err != nil {
		t.Error(err)
	}
	if p, err := GetFrame(rw); p != nil || err != io.EOF {
		t.Errorf("got %q, %v", p, err)
	}
	if got, want := rw.out.String(), "\x8a\x04ping\x81\x01b\x88\x02\x03\xe8"; got != want {
		t.Errorf("sent %q, want %q", got, want)
	}
	if rw.closed || rw.deadlines != 0 {
		t.Errorf("closed: %v, %d deadlines set", rw.closed, rw.deadlines)
	}
}

// A timeout between two messages loses nothing, not even behind a ping.
func TestBareTimeout(t *testing.T) {
	t.Parallel()
	late := iotest.ErrReader(os.ErrDeadlineExceeded)
	first, second := clientFrames(wf(0x89, "1"), wf(0x81, "a"), wf(0x89, "2")), clientFrames(wf(0x81, "b"))
	rw := &memStream{Reader: io.MultiReader(bytes.NewReader(first), late)}
	if p, err := GetFrame(rw); string(p) != "a" || err != nil {
		t.Errorf("got %q, %v", p, err)
	}
	if p, err := GetFrame(rw); p != nil || err != os.ErrDeadlineExceeded {
		t.Errorf("got %q, %v", p, err)
	}
	rw.Reader = bytes.NewReader(second)
	if p, err := GetFrame(rw); string(p) != "b" || err != nil {
		t.Errorf("got %q, %v", p, err)
	}
	if rw.writes != 2 {
		t.Errorf("sent %q", rw.out.String())
	}
}

// The errors of a bare stream are passed on, also those that come with bytes; a Write that fails
// does not end a read.
func TestBareErrors(t *testing.T) {
	t.Parallel()
	message := clientFrames(wf(0x81, "a message"))
	for n := range message {
		calls := 0
		r := readFunc(func(p []byte) (int, error) {
			if calls++; calls > 1 {
				return 0, errTooFar
			}
			return copy(p, message[:min(n, 2)]), errBroken
		})
		if p, err := GetFrame(wireStream{r, io.Discard}); p != nil || err != errBroken {
			t.Errorf("after %d bytes: %q, %v", min(n, 2), p, err)
		}
		rw := wireStream{io.MultiReader(bytes.NewReader(message[:n]), iotest.ErrReader(errBroken)), io.Discard}
		if p, err := GetFrame(rw); p != nil || err != errBroken {
			t.Errorf("after %d bytes: %q, %v", n, p, err)
		}
	}
	if p, err := GetFrame(wireStream{stuckReader{}, io.Discard}); p != nil || err != io.ErrNoProgress {
		t.Errorf("a reader that returns nothing: %q, %v", p, err)
	}
	mute := writeFunc(func([]byte) (int, error) { return 0, errBroken })
	rw := wireStream{bytes.NewReader(clientFrames(wf(0x89, ""), wf(0x81, "a"), wfClose(4000, "b"))), mute}
	if p, err := GetFrame(rw); string(p) != "a" || err != nil {
		t.Errorf("got %q, %v", p, err)
	}
	if e, ok := errors.AsType[*CloseError](func() error { _, err := GetFrame(rw); return err }()); !ok || e.Code != 4000 || e.Reason != "b" {
		t.Errorf("the peer has closed, got %v", e)
	}
}

// A bare stream and a Conn make the same of any input, and send the same.
func FuzzBare(f *testing.F) {
	f.Add(clientFrames(wf(0x81, "a"), wf(0x89, "ping"), wf(0x01, "b"), wf(0x8a, ""), wf(0x80, "c"), wfClose(1000, "bye")))
	f.Add(clientFrames(wf(0x02, "a"), wfClose(4000, "")))
	f.Add(clientFrames(wf(0x81, "a"), wireFrame{first: 0x82, claim: 1 << 40}))
	f.Add(clientFrames(wireFrame{first: 0x81, p: "\xff", claim: 100}))
	f.Add(clientFrames(wf(0x82, strings.Repeat("a", 5000)), wfClose(1005, "")))
	f.Fuzz(func(t *testing.T, in []byte) {
		all := func(rw io.ReadWriter) (got string, err error) {
			for {
				p, err := GetFrame(rw)
				if err != nil {
					return got, err
				}
				got += fmt.Sprintf("%q", p)
			}
		}
		bare, wrapped := newBareStream(string(in)), &memStream{Reader: bytes.NewReader(in)}
		got, err := all(bare)
		want, wantErr := all(newConn(wrapped, nil, false))
		if got != want || err.Error() != wantErr.Error() || bare.out.String() != wrapped.out.String() {
			t.Errorf("a bare stream: %s, %v, sent %q\na Conn: %s, %v, sent %q", got, err, bare.out.String(), want, wantErr, wrapped.out.String())
		}
	})
}
