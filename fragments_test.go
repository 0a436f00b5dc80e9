// How many fragments a message may have.

package websocket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"strings"
	"testing"
	"testing/iotest"
)

// TestFragmentLimit shows how many fragments of a size a message may have before the one that
// ends it.
func TestFragmentLimit(t *testing.T) {
	const many = 2 << 20
	for _, tt := range []struct {
		first      byte
		size, want int
		limit      uint64
	}{
		{opBinary, 0, 16384, math.MaxInt64},
		{opBinary, 1, 16644, math.MaxInt64}, // 16384 + 260, and 260*64 is 16640
		{opBinary, 63, 1 << 20, math.MaxInt64},
		{opBinary, 64, many, math.MaxInt64},
		{opBinary, 125, many, math.MaxInt64},
		{opBinary | rsv1Bit, 0, 16384, math.MaxInt64},
		{opBinary | rsv1Bit, 1, 18724, math.MaxInt64}, // 16384 + 2340, and 2340*8 is 18720
		{opBinary | rsv1Bit, 7, 1 << 17, math.MaxInt64},
		{opBinary | rsv1Bit, 8, many, math.MaxInt64},
		{opBinary | rsv1Bit, 7, 16384 + 1000, 8000},
		{opBinary | rsv1Bit, 9, 16384 + 1000, 8000},
	} {
		d := decoder{deflate: true, limit: tt.limit}
		b := make([]byte, 2+tt.size)
		b[1] = byte(tt.size)
		n, err := 0, error(nil)
		for b[0] = tt.first; n < many && err == nil; b[0] = opContinuation {
			if _, _, err = d.next(b); err == nil {
				n++
			}
		}
		if e, ok := err.(*CloseError); n != tt.want || n < many && (!ok || e.Code != ClosePolicyViolation) {
			t.Errorf("%#x: a message of up to %d bytes may have %d fragments of %d bytes, want %d: %v", tt.first, tt.limit, n, tt.size, tt.want, err)
			continue
		}
		end := decoder{deflate: true, limit: tt.limit}
		b[0] = tt.first
		for range min(n, 20_000) {
			if _, _, err := end.next(b); err != nil {
				t.Fatal(err)
			}
			b[0] = opContinuation
		}
		for _, last := range []string{"\x80\x00", "\x80\x01a"} {
			d := end
			if p, used, err := d.next([]byte(last)); used != len(last) || !p.end || err != nil {
				t.Errorf("%#x: %d fragments of %d bytes, and then the last: %+v, %v", tt.first, n, tt.size, p, err)
			}
		}
	}
}

// TestFragmentsSent has one side take what the other sends, in fragments of a size, up to the
// limit on their number and past it.
func TestFragmentsSent(t *testing.T) {
	const unlimited = 0
	for _, tt := range []struct {
		size  int
		want  int // fragments before the one that ends the message
		level int // of compression, or 0
	}{
		{0, 16384, 0},
		{1, 16644, 0},
		{63, unlimited, 0},
		{64, unlimited, 0},
		{65, unlimited, 0},
		{0, 16384, 1},
		{1, 18724, 1}, // not more, as the message is limited to that
		{7, unlimited, 1},
		{8, unlimited, 1},
		{63, unlimited, 1},
		{64, unlimited, 1},
		{65, unlimited, 1},
		{1, 18724, 6},
		{64, unlimited, 6},
	} {
		if raceEnabled && tt.level > 0 && tt.size > 8 { // takes long then
			continue
		}
		for _, client := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d/level=%d/client=%t", tt.size, tt.level, client), func(t *testing.T) {
				p := deflateKinds[1](tt.size, 1)
				counts := []int{tt.want, tt.want + 1}
				if tt.want == unlimited {
					counts = []int{20_000}
				}
				for past, n := range counts {
					o := &Options{MaxMessage: max(1, int64(n*tt.size))}
					open := func(rw io.ReadWriter, client bool) *Conn {
						if tt.level == 0 {
							return newConn(rw, o, client)
						}
						o.Deflate = &Deflate{Level: tt.level}
						return packedConn(rw, o, client, false)
					}
					var wire bytes.Buffer
					w, err := open(wireStream{nil, &wire}, client).NextWriter(Text)
					for range n {
						if err == nil {
							_, err = w.Write(p)
						}
					}
					if err == nil {
						err = w.Close()
					}
					if err != nil {
						t.Fatal(err)
					}
					_, got, err := open(wireStream{&wire, io.Discard}, !client).ReadMessage()
					switch {
					case past == 0 && (err != nil || len(got) != n*tt.size):
						t.Fatalf("%d fragments: %d bytes, %v", n, len(got), err)
					case past > 0:
						checkCode(t, err, ClosePolicyViolation, byFailure)
					}
				}
			})
		}
	}
}

// TestFragments shows that fragments which cost a peer nothing are counted, and
// cost this side nothing.
func TestFragments(t *testing.T) {
	for _, client := range []bool{false, true} {
		for _, first := range []byte{opText, opBinary} {
			begin := wf(first, "").append(nil, !client, false)
			empty := wf(0x00, "").append(nil, !client, false)
			end := wf(0x80, "z").append(nil, !client, false)

			in := bytes.Repeat(empty, maxFragments-1)
			in = slices.Concat(begin, in, end, begin, in)
			for _, late := range [][]byte{end, empty} { // for the second message
				var out bytes.Buffer
				stream := io.MultiReader(bytes.NewReader(in), bytes.NewReader(late), iotest.ErrReader(errStall))
				c := newConn(wireStream{stream, &out}, nil, client)
				got, err := wireReads[0].all(c)
				want := []wireMessage{{MessageType(first), "z"}, {MessageType(first), "z"}}
				if late[0] == end[0] {
					if !slices.Equal(got, want) || cause(err) != errStall || out.Len() > 0 {
						t.Errorf("16 Ki fragments and a last one, twice: %q, %v", describe(got), err)
					}
					continue
				}
				if !slices.Equal(got, want[:1]) {
					t.Errorf("16 Ki fragments and a last one: %q, %v", describe(got), err)
				}
				checkCode(t, err, ClosePolicyViolation, byFailure)
				if sent, _ := parseWire(out.Bytes(), client); len(sent) != 1 || !strings.HasPrefix(sent[0].p, "\x03\xf0") {
					t.Errorf("one fragment more: %v, sent %+v", err, sent)
				}
			}

			for _, read := range wireReads {
				endless := &wireLoop{b: empty}
				stream := io.MultiReader(bytes.NewReader(begin), io.LimitReader(endless, int64(100_000*len(empty))))
				var err error
				n := wireAllocated(func() {
					_, err = read.all(newConn(wireStream{stream, io.Discard}, nil, client))
				})
				var ce *CloseError
				if !errors.As(err, &ce) || ce.Code != ClosePolicyViolation {
					t.Errorf("%s: 100,000 empty fragments: %v", read.name, err)
				}
				if limit := (maxFragments+2)*len(empty) + inputSize; n > 64<<10 || endless.read > limit {
					t.Errorf("%s: %d bytes allocated, %d read", read.name, n, endless.read)
				}
			}
		}
	}
}
