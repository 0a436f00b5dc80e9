// What has been read from a stream and not been used, in a buffer that is there only while it is
// needed.

package websocket

import (
	"slices"
	"sync"
)

// An input is what a transport needs to read, and has read. There need be none, a nil *input, while
// nobody reads and nothing is left. It belongs to whoever has the turn to read.
type input struct {
	from source
	try  func(fd uintptr) bool         // is from.tryRead
	then func() (used bool, err error) // deals with what that has read, or nil
	b    []byte                        // b[r:w] has not been used
	r, w int
	held error // for the next read: it came with the last bytes, or from try
}

// A source is what an input comes from: a transport.
type source interface {
	// tryRead reads from a socket, and reports whether raw.Read is to return.
	tryRead(fd uintptr) bool
}

// unusedInputs holds those of which nothing is left.
var unusedInputs = sync.Pool{New: func() any {
	in := new(input)
	in.try = func(fd uintptr) bool { return in.from.tryRead(fd) }
	return in
}}

func newInput(from source) *input {
	in := unusedInputs.Get().(*input)
	in.from = from
	return in
}

// free gives in back, and reports whether nothing is left of it.
func (in *input) free() bool {
	if in == nil {
		return true
	}
	if in.release(); in.w > 0 || in.held != nil {
		return false
	}
	*in = input{try: in.try}
	unusedInputs.Put(in)
	return true
}

// bytes returns what has not been used. It is valid until there is more, or the buffer is released.
func (in *input) bytes() []byte {
	if in == nil {
		return nil
	}
	return in.b[in.r:in.w]
}

// use takes the first n bytes off.
func (in *input) use(n int) {
	if in == nil {
		return
	}
	if in.r += n; in.r == in.w {
		in.r, in.w = 0, 0
	}
}

// preload makes b the first input.
func (in *input) preload(b []byte) { in.b, in.w = b, len(b) }

// space returns the room behind what there is, and add takes n bytes of it.
func (in *input) space() []byte { return in.b[in.w:] }
func (in *input) add(n int)     { in.w += n }

// isFull reports whether there is no room.
func (in *input) isFull() bool { return in.w == len(in.b) }

// makeRoom makes space, in a buffer of size bytes unless the input needs more.
func (in *input) makeRoom(size int) {
	p := in.bytes()
	switch {
	case len(in.b) < size && size == inputSize:
		in.b = inputs.Get().(*[inputSize]byte)[:]
	case len(in.b) < size, len(in.b) > size && len(p) == 0: // it has grown, or was preloaded
		in.b = make([]byte, size)
	case len(p) == len(in.b):
		in.b = make([]byte, 2*len(in.b))
	case in.r == 0:
		return
	}
	in.r, in.w = 0, copy(in.b, p)
}

// release gives the buffer back. What has not been used, a part of a header, of a control frame or
// of a request, stays in a copy of its size.
func (in *input) release() {
	b, p := in.b, in.bytes()
	in.b = slices.Clone(p)
	if len(p) == 0 {
		in.b = nil
	}
	in.r, in.w = 0, len(p)
	if len(b) == inputSize {
		inputs.Put((*[inputSize]byte)(b))
	}
}

// hold keeps an error for the next read, and isHeld reports whether there is one.
func (in *input) hold(err error) { in.held = err }
func (in *input) isHeld() bool   { return in != nil && in.held != nil }

// takeHeld returns that error, if there is one, to the next read.
func (in *input) takeHeld() error {
	if in == nil {
		return nil
	}
	err := in.held
	in.held = nil
	return err
}

// setThen has f deal with what try reads that does not fill the buffer, before raw.Read returns.
func (in *input) setThen(f func() (used bool, err error)) { in.then = f }

// finish has it do so. It reports whether all has been used, and holds its error.
func (in *input) finish() (used bool) {
	if in.then != nil {
		used, in.held = in.then()
	}
	return used
}
