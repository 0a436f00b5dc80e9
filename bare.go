// Streams that are not a Conn: of these a message, or an opening handshake, is read without a byte
// too many, as nothing is kept between two calls.

package websocket

import "io"

// A bareInput is what has been read from a stream in one call: never more than was needed.
type bareInput struct {
	r    io.Reader
	b    []byte // what has been read
	buf  messageBuffer
	held error // for the next read: it came with the last bytes
}

// fill reads more input: at least a byte, and need bytes at most. The end of the stream is
// io.ErrUnexpectedEOF if within is true, or if something has been read.
func (in *bareInput) fill(need int, within bool) error {
	err := in.held
	if err == nil {
		in.b = in.buf.grow(in.b, min(need, leastRoom))
		room := in.b[len(in.b):cap(in.b)]
		n := 0
		n, err = readSome(in.r, room[:min(need, len(room))])
		in.b = in.b[:len(in.b)+n]
		if n > 0 {
			in.held = err
			return nil
		}
	}
	if err == io.EOF && (within || len(in.b) > 0) {
		err = io.ErrUnexpectedEOF
	}
	return err
}

// getBare reads the next message that an RFC 6455 client has sent, and answers what comes before
// its end.
func getBare(rw io.ReadWriter) ([]byte, error) {
	in := bareInput{r: rw}
	defer in.buf.free()
	d := decoder{masked: true, limit: messageLimit(0)}
	size := 0 // of the payload at the start of in.b; a frame that has not been decoded lies behind
	for {
		p, n, err := d.next(in.b[size:])
		switch {
		case err != nil:
			return nil, closeBare(rw, err)
		case n == 0:
			if err := in.fill(p.need, d.within()); err != nil {
				return nil, err
			}
			continue
		case p.opcode == opPing:
			putBare(rw, opPong, p.payload) // if that fails, there may yet be something to read
		case p.opcode == opClose:
			e := &CloseError{}
			if e.Code, e.Reason, err = parseClose(p.payload); err != nil {
				return nil, closeBare(rw, err)
			}
			if d.within() {
				e.by = byPeerEarly
			}
			return nil, closeBare(rw, e)
		case p.opcode == opText || p.opcode == opBinary:
			size += copy(in.b[size:], p.payload)
			if p.end {
				return append([]byte{}, in.b[:size]...), nil
			}
		}
		in.b = in.b[:size] // all behind that has been decoded
	}
}

// closeBare sends a close frame because of what has been read, a *CloseError, and returns that.
func closeBare(w io.Writer, err error) error {
	e := err.(*CloseError)
	putBare(w, opClose, appendClose(nil, e.Code, e.Reason))
	return e
}

// putBare sends a frame as an RFC 6455 server, with one call of w.Write.
func putBare(w io.Writer, opcode byte, p []byte) error {
	out := newScratch(len(p))
	defer out.free()
	out.b = appendFrame(out.b, finBit|opcode, p, false)
	return writeFull(w, out.b)
}

// requestBare reads a client's opening handshake.
func requestBare(r io.Reader) (*Request, error) {
	in := bareInput{r: r}
	defer in.buf.free()
	req, _, err := scanRequest(nil, func(need int) ([]byte, error) {
		err := in.fill(need, false)
		return in.b, err
	})
	return req, err
}

// writeFull writes p with one call of w.Write.
func writeFull(w io.Writer, p []byte) error {
	_, err := writeSome(w, p)
	return err
}
