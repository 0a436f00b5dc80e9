// The memory that connections share: buffers for input, for output and for messages. A
// connection has them only while it needs them.

package websocket

import (
	"slices"
	"sync"
)

const (
	inputSize     = 32 << 10 // bytes of a pooled input buffer
	heldInputSize = 4 << 10  // bytes of one that has to stay while a Conn is idle
	batchSize     = 64 << 10 // bytes of output that do not wait for more
	maxLarge      = 2 << 20  // bytes of the largest message whose buffer is kept

	smallMessage = 4 << 10 // bytes of the smallest buffer for a message
	leastRoom    = 512     // bytes that are at least to be read at once, if there may be so many
)

// inputs holds buffers of type *[inputSize]byte.
var inputs = sync.Pool{New: func() any { return new([inputSize]byte) }}

// An output collects frames until they are written.
type output struct {
	b      []byte
	number uint64  // counts the outputs of a writer
	next   *output // of its list
}

// outputs holds those that a writer may keep for as long as its peer takes, and largeOutputs others.
var (
	outputs      = sync.Pool{New: func() any { return &output{b: make([]byte, 0, 4<<10)} }}
	largeOutputs sync.Pool
)

func newOutput() *output { return outputs.Get().(*output) }

// newScratch returns an output for a frame with a payload of size bytes, or for what is made on the
// way to it.
func newScratch(size int) *output {
	if size > batchSize {
		if o, ok := largeOutputs.Get().(*output); ok {
			return o
		}
	}
	return newOutput()
}

func (o *output) free() {
	size := cap(o.b)
	switch o.b, o.next = o.b[:0], nil; {
	case size <= 2*batchSize:
		outputs.Put(o)
	case size <= 8*batchSize:
		largeOutputs.Put(o)
	}
}

// A messageBuffer holds a message that comes in parts. Its size goes by how much has come, and
// so does that of what it takes from a pool: whoever sends a part of a message makes nobody keep
// much more than that.
type messageBuffer struct {
	out  *output // or nil
	size int     // index of messages
}

// messages holds the buffers: in the first pool those of smallMessage bytes, in each of the
// next of four times as many, and in the last any larger ones.
var messages [6]sync.Pool

// grow returns p, which is empty or what it returned last, with room for n more bytes. Without
// a messageBuffer p is the caller's.
func (m *messageBuffer) grow(p []byte, n int) []byte {
	if m == nil {
		return slices.Grow(p, n)
	}
	need := len(p) + n
	if need <= cap(p) {
		return p
	}
	size, room := 0, smallMessage
	for need > room && size < len(messages)-1 {
		size, room = size+1, 4*room
	}
	if size == len(messages)-1 {
		room = need
	}
	if m.out != nil && m.size == size {
		m.out.b = slices.Grow(p, n)
		return m.out.b
	}
	next, ok := messages[size].Get().(*output)
	if !ok {
		next = new(output)
	}
	next.b = append(slices.Grow(next.b[:0], room), p...)
	m.free()
	m.out, m.size = next, size
	return next.b
}

// free gives the memory back.
func (m *messageBuffer) free() {
	if m.out != nil && cap(m.out.b) <= maxLarge {
		messages[m.size].Put(m.out)
	}
	m.out = nil
}

// growStack makes the stack of a goroutine as large as a message needs it. A stack that is too small
// is copied, frame by frame: here there are few yet.
//
//go:noinline
func growStack(i int) byte {
	var room [3 << 10]byte
	return room[i]
}
