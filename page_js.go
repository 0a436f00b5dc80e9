// The WebSocket of a page, as a stream of frames that a Conn can use as any other.

package websocket

import (
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"sync"
	"syscall/js"
	"time"
)

const (
	queuedSize = 256                   // bytes that a message in the queue takes besides its payload
	roomTime   = 10 * time.Millisecond // after which a write looks again whether there is room
)

var (
	uint8Array  = js.Global().Get("Uint8Array")
	textEncoder = js.Global().Get("TextEncoder").New()
	textDecoder = js.Global().Get("TextDecoder").New("utf-8", map[string]any{"ignoreBOM": true}) // and keep it
)

// A pageStream is the WebSocket of a page. The messages that come are read from it as frames, and
// the frames that are written to it become messages.
type pageStream struct {
	ws     js.Value
	limit  int       // bytes that may wait in either direction
	opened chan bool // gets whether the opening handshake has succeeded

	mu      sync.Mutex         // guards what follows
	cond    sync.Cond          // signals a change of any of these
	events  map[string]js.Func // by the names of their handlers
	queue   []pageMessage
	queued  int         // bytes in the queue
	in      []byte      // to be read next
	rest    pageMessage // whose payload is behind that
	err     error       // behind the queue, once nothing more comes
	readBy  time.Time   // deadlines
	writeBy time.Time
	out     []byte // the start of a frame whose rest is to be written
	opcode  byte   // of the message that is written
	message []byte // its fragments so far
}

// A pageMessage is one that has come, or the close frame.
type pageMessage struct {
	opcode byte
	data   js.Value // a Uint8Array
	size   int
}

// open begins to connect. What the page throws is its error: one that has come by https may not
// use ws.
func (s *pageStream) open(constructor js.Value, url string, protocols []string) (err error) {
	defer func() {
		thrown := recover()
		if e, ok := thrown.(js.Error); ok {
			err = e
		} else if thrown != nil {
			panic(thrown)
		}
	}()
	offered := make([]any, len(protocols))
	for i, p := range protocols {
		offered[i] = p
	}
	s.ws = constructor.New(url, offered)
	s.ws.Set("binaryType", "arraybuffer")
	s.events = make(map[string]js.Func)
	for name, handle := range map[string]func(js.Value){"onopen": s.onOpen, "onmessage": s.onMessage, "onclose": s.onClose} {
		s.events[name] = js.FuncOf(func(_ js.Value, args []js.Value) any {
			s.mu.Lock()
			defer s.mu.Unlock()
			handle(args[0])
			s.cond.Broadcast()
			return nil
		})
		s.ws.Set(name, s.events[name])
	}
	return nil
}

func (s *pageStream) onOpen(js.Value) { s.opened <- true }

// onMessage queues a message, which stays in the memory of the page until it is read.
func (s *pageStream) onMessage(event js.Value) {
	m := pageMessage{opcode: opBinary, data: event.Get("data")}
	if m.data.Type() == js.TypeString {
		m.opcode, m.data = opText, textEncoder.Call("encode", m.data)
	} else {
		m.data = uint8Array.New(m.data)
	}
	m.size = m.data.Get("length").Int()
	switch {
	case s.err != nil:
	case len(s.queue) > 0 && s.queued+queuedSize+m.size > s.limit: // a page cannot make the peer wait
		s.err = fmt.Errorf("more than %d bytes of messages wait to be read", s.limit)
		s.ws.Call("close")
	default:
		s.put(m)
	}
}

// onClose is the last event. It puts a close frame behind the messages if one has come.
func (s *pageStream) onClose(event js.Value) {
	s.release()
	select {
	case s.opened <- false:
	default: // it was open
	}
	if s.err != nil {
		return
	}
	s.err = io.EOF
	if code := CloseCode(event.Get("code").Int()); code != CloseAbnormal {
		p := appendClose(nil, code, event.Get("reason").String())
		s.put(pageMessage{opClose, newUint8Array(p), len(p)})
	}
}

// release lets no more events come.
func (s *pageStream) release() {
	for name, f := range s.events {
		s.ws.Set(name, nil)
		f.Release()
	}
	s.events = nil
}

func (s *pageStream) put(m pageMessage) {
	s.queue = append(s.queue, m)
	s.queued += queuedSize + m.size
}

// take lets the first of the queue be read. The payload of a large one stays where it is until the
// header has been read, as the Conn may refuse it.
func (s *pageStream) take() {
	m := s.queue[0]
	s.queue[0] = pageMessage{}
	s.queue = s.queue[1:]
	s.queued -= queuedSize + m.size
	s.in = appendHeader(nil, finBit|m.opcode, false, m.size)
	if s.rest = m; m.size <= heldInputSize {
		s.fetch()
	}
}

// fetch copies a payload to new memory. The page has its own back when the garbage collector has
// run, and so that has to run the sooner, the more comes.
func (s *pageStream) fetch() {
	n := len(s.in)
	s.in = slices.Grow(s.in, s.rest.size)[:n+s.rest.size]
	js.CopyBytesToGo(s.in[n:], s.rest.data)
	s.rest = pageMessage{}
}

func (s *pageStream) Read(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case passed(s.readBy):
			return 0, os.ErrDeadlineExceeded
		case len(s.in) > 0:
			n := copy(p, s.in)
			s.in = s.in[n:]
			return n, nil
		case s.rest.size > 0:
			s.fetch()
		case len(s.queue) > 0:
			s.take()
		case s.err != nil:
			return 0, s.err
		default:
			s.wait(s.readBy)
		}
	}
}

// Write takes all of p once there is room, of which no event tells.
func (s *pageStream) Write(p []byte) (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		switch {
		case passed(s.writeBy):
			return 0, os.ErrDeadlineExceeded
		case s.err != nil:
			return 0, io.ErrClosedPipe
		case s.ws.Get("bufferedAmount").Int() < s.limit:
			s.out = append(s.out, p...)
			if n := s.send(s.out); n > 0 {
				s.out = slices.Clone(s.out[n:]) // new memory, as in fetch
			}
			return len(p), nil
		}
		s.wait(time.Now().Add(roomTime))
	}
}

// send sends the messages in b, and returns how many bytes the frames have that are whole.
func (s *pageStream) send(b []byte) (used int) {
	for {
		p := b[used:]
		h, size := parseHeader(p)
		if len(p) < size || uint64(len(p)-size) < h.length {
			return used
		}
		p = p[size : size+int(h.length)]
		used += size + len(p)
		mask(p, h.key)
		if h.opcode == opClose {
			s.sendClose(p)
			continue
		}
		if h.opcode != opContinuation {
			s.opcode = h.opcode
		}
		if s.message != nil || !h.fin {
			s.message = append(s.message, p...)
			p = s.message
		}
		if h.fin {
			data := newUint8Array(p)
			if s.opcode == opText {
				data = textDecoder.Call("decode", data)
			}
			s.ws.Call("send", data)
			s.message = nil
		}
	}
}

// sendClose begins the closing handshake. Codes that a page must not send it leaves out.
func (s *pageStream) sendClose(payload []byte) {
	code, reason, _ := parseClose(payload)
	if code == CloseNormal || code >= 3000 {
		s.ws.Call("close", int(code), reason)
	} else {
		s.ws.Call("close")
	}
}

// newUint8Array returns a copy of p.
func newUint8Array(p []byte) js.Value {
	a := uint8Array.New(len(p))
	js.CopyBytesToJS(a, p)
	return a
}

// Close leaves the closing handshake, without which a page cannot close, to the browser.
func (s *pageStream) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.release()
	s.ws.Call("close")
	s.queue, s.in, s.rest, s.err = nil, nil, pageMessage{}, net.ErrClosed
	s.cond.Broadcast()
	return nil
}

func (s *pageStream) SetReadDeadline(at time.Time) error  { return s.setDeadline(&s.readBy, at) }
func (s *pageStream) SetWriteDeadline(at time.Time) error { return s.setDeadline(&s.writeBy, at) }

func (s *pageStream) setDeadline(deadline *time.Time, at time.Time) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	*deadline = at
	s.cond.Broadcast()
	return nil
}

func passed(deadline time.Time) bool { return !deadline.IsZero() && !time.Now().Before(deadline) }

// wait waits for a change, or until a time that is not zero.
func (s *pageStream) wait(until time.Time) {
	if !until.IsZero() {
		defer time.AfterFunc(time.Until(until), func() {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.cond.Broadcast()
		}).Stop()
	}
	s.cond.Wait()
}

// pingless is for Ping.
func (s *pageStream) pingless() {}
