package main

import (
	"bufio"
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
)

// payload returns text of the given length, the same each time. It compresses about as
// well as JSON does.
func payload(size int) []byte {
	random := rand.New(rand.NewPCG(1, 2))
	words := []string{"alpha", "bravo", "charlie", "delta", "echo", "foxtrot", "golf", "hotel"}
	var p []byte
	for len(p) < size {
		p = fmt.Appendf(p, `{"id":%d,"user":"%s","text":"%s %s %s"},`, random.IntN(1e6), words[random.IntN(8)],
			words[random.IntN(8)], words[random.IntN(8)], words[random.IntN(8)])
	}
	return p[:size]
}

const (
	finBinary  = 0x82 // the first byte of a frame that is a whole binary message
	compressed = 0x40 // the bit of it that says that the message is compressed
	masked     = 0x80 // the bit of the second byte that says that a mask follows
)

// appendHeader appends the header of a frame, without the mask.
func appendHeader(dst []byte, first, mask byte, size int) []byte {
	switch {
	case size < 126:
		return append(dst, first, mask|byte(size))
	case size < 1<<16:
		return binary.BigEndian.AppendUint16(append(dst, first, mask|126), uint16(size))
	}
	return binary.BigEndian.AppendUint64(append(dst, first, mask|127), uint64(size))
}

// clientFrame returns a binary message as a client sends it.
func clientFrame(p []byte, first byte) []byte {
	key := [4]byte{0x37, 0xfa, 0x21, 0x3d}
	frame := append(appendHeader(nil, first, masked, len(p)), key[:]...)
	for i, b := range p {
		frame = append(frame, b^key[i%4])
	}
	return frame
}

// serverFrame returns a binary message as a server sends it.
func serverFrame(p []byte) []byte {
	return append(appendHeader(nil, finBinary, 0, len(p)), p...)
}

// sameFrame reports whether got is want, or is it as a text message.
func sameFrame(got, want []byte) bool {
	return (got[0] == want[0] || got[0] == want[0]-1) && bytes.Equal(got[1:], want[1:])
}

// tail is what permessage-deflate removes from the end of a message.
const tail = "\x00\x00\xff\xff"

// deflated returns p as permessage-deflate sends it.
func deflated(p []byte) ([]byte, error) {
	var b bytes.Buffer
	w, err := flate.NewWriter(&b, flate.BestSpeed)
	if err != nil {
		return nil, err
	}
	if _, err := w.Write(p); err != nil {
		return nil, err
	}
	if err := w.Flush(); err != nil {
		return nil, err
	}
	return bytes.TrimSuffix(b.Bytes(), []byte(tail)), nil
}

// inflated returns the message that p is compressed from. It may have limit bytes.
func inflated(p []byte, limit int) ([]byte, error) {
	r := flate.NewReader(io.MultiReader(bytes.NewReader(p), bytes.NewReader([]byte(tail+"\x01\x00\x00\xff\xff"))))
	return io.ReadAll(io.LimitReader(r, int64(limit)+1))
}

// A header is the part of a frame's header that a client looks at.
type header struct {
	first  byte
	masked bool
	size   int
}

// readHeader reads the header of a frame, with the mask if there is one.
func readHeader(r *bufio.Reader) (h header, err error) {
	b, err := r.Peek(2)
	if err != nil {
		return h, err
	}
	h.first, h.masked, h.size = b[0], b[1]&masked != 0, int(b[1]&127)
	length := 2
	switch h.size {
	case 126:
		length = 4
	case 127:
		length = 10
	}
	if b, err = r.Peek(length); err != nil {
		return h, err
	}
	switch length {
	case 4:
		h.size = int(binary.BigEndian.Uint16(b[2:]))
	case 10:
		size := binary.BigEndian.Uint64(b[2:])
		if size > 1<<30 {
			return h, errors.New("a frame is larger than what was sent")
		}
		h.size = int(size)
	}
	if h.masked {
		length += 4
	}
	_, err = r.Discard(length)
	return h, err
}

// readMessage reads one data message, which may have fragments, and passes over control
// frames. It returns how many bytes its frames had without their headers.
// If keep is not nil it gets the payload.
func readMessage(r *bufio.Reader, keep *bytes.Buffer) (first byte, size int, err error) {
	for {
		h, err := readHeader(r)
		if err != nil {
			return 0, 0, err
		}
		switch opcode := h.first & 15; {
		case opcode == 8:
			return 0, 0, errors.New("the server has closed the connection")
		case opcode > 8:
			_, err = r.Discard(h.size)
			if err != nil {
				return 0, 0, err
			}
			continue
		case opcode != 0:
			first = h.first
		}
		if keep != nil {
			_, err = io.CopyN(keep, r, int64(h.size))
		} else {
			_, err = r.Discard(h.size)
		}
		if err != nil {
			return 0, 0, err
		}
		size += h.size
		if h.first&0x80 != 0 {
			return first, size, nil
		}
	}
}
