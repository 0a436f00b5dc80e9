// The memory that connections share: buffers for input, for output and for messages. A
// connection has them only while it needs them.

package websocket

import (
	"slices"
	"sync"
)

const (
	inputSize = 32 << 10 // bytes of a pooled input buffer
	batchSize = 64 << 10 // bytes of output that do not wait for more
	maxLarge  = 2 << 20  // bytes of the largest message whose buffer is kept
)

// inputs holds buffers of type *[inputSize]byte.
var inputs = sync.Pool{New: func() any { return new([inputSize]byte) }}

// An output collects frames until they are written.
type output struct{ b []byte }

var outputs = sync.Pool{New: func() any { return &output{b: make([]byte, 0, 4<<10)} }}

func newOutput() *output { return outputs.Get().(*output) }

func (o *output) free() {
	if cap(o.b) <= 8*batchSize {
		o.b = o.b[:0]
		outputs.Put(o)
	}
}

// A messageBuffer holds a message that comes in parts. Until more than an input buffer would
// hold has come, it is one: whoever sends a byte of a message makes nobody keep more.
type messageBuffer struct {
	small *[inputSize]byte
	large *output
}

// messages holds the large buffers.
var messages = sync.Pool{New: func() any { return new(output) }}

// grow returns p, which is empty or what it returned last, with room for n more bytes. Without
// a messageBuffer p is the caller's.
func (m *messageBuffer) grow(p []byte, n int) []byte {
	switch {
	case m == nil:
		return slices.Grow(p, n)
	case len(p)+n <= cap(p):
		return p
	case m.large != nil:
		m.large.b = slices.Grow(p, n)
	case len(p)+n <= inputSize:
		m.small = inputs.Get().(*[inputSize]byte)
		return append(m.small[:0], p...)
	default:
		m.large = messages.Get().(*output)
		m.large.b = append(slices.Grow(m.large.b[:0], len(p)+n), p...)
		m.freeSmall()
	}
	return m.large.b
}

// free gives the memory back.
func (m *messageBuffer) free() {
	m.freeSmall()
	if m.large != nil && cap(m.large.b) <= maxLarge {
		messages.Put(m.large)
	}
	m.large = nil
}

func (m *messageBuffer) freeSmall() {
	if m.small != nil {
		inputs.Put(m.small)
		m.small = nil
	}
}
