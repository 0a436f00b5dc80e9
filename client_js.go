// The client's connection in a browser: the WebSocket of the page, below a Conn as any other.

package websocket

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"syscall/js"
	"time"
)

const queuedSize = 256 // bytes that a message in the queue takes besides its payload

var (
	uint8Array  = js.Global().Get("Uint8Array")
	textEncoder = js.Global().Get("TextEncoder").New()
	textDecoder = js.Global().Get("TextDecoder").New("utf-8", map[string]any{"ignoreBOM": true}) // and keep it
)

// dial is Dial with arguments that have been checked. r is the request for net/http, and req the
// same for Conn.Request.
func dial(ctx context.Context, r *http.Request, req *Request, o *Options) (*Conn, error) {
	constructor := js.Global().Get("WebSocket")
	for what, asked := range map[string]bool{
		"heed Options.Header":             len(o.Header) > 0,
		"heed Options.HTTPClient":         o.HTTPClient != nil,
		"heed Options.Deflate":            o.Deflate != nil,
		"heed Options.PingInterval":       o.PingInterval > 0,
		"send the user of a URL":          r.URL.User != nil,
		"connect, as it has no WebSocket": constructor.Type() != js.TypeFunction,
	} {
		if asked {
			return nil, fmt.Errorf("websocket: this page cannot %s: %w", what, errors.ErrUnsupported)
		}
	}
	if d := o.handshakeLimit(); d > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, d)
		defer cancel()
	}
	s := &pageStream{pipeEnd: pipeEnd{newPipeHalf(), newPipeHalf()}, limit: o.queueLimit(), opened: make(chan bool, 3)}
	if err := s.open(constructor, "ws"+strings.TrimPrefix(r.URL.String(), "http"), o.Protocols); err != nil {
		return nil, fmt.Errorf("websocket: %w", err)
	}
	select {
	case <-ctx.Done():
		s.Close()
		return nil, fmt.Errorf("websocket: %w", ctx.Err())
	case opened := <-s.opened:
		if !opened {
			return nil, errors.New("websocket: the connection has failed, and a page is not told why")
		}
	}
	req.Key, req.Header = "", nil // the page has others
	req.Protocol, req.Extensions = s.ws.Get("protocol").String(), s.ws.Get("extensions").String()
	c := newConn(s, o, true)
	c.req = req.keep() // no more, as it is the page that heeds the extensions
	return c, nil
}

// A pageStream is the end of a pipe whose other end is the WebSocket of the page: the messages that
// come are read as frames, and the frames that are written become messages.
type pageStream struct {
	pipeEnd
	ws      js.Value
	handler js.Func       // of its events
	limit   int           // bytes that may wait in either direction
	opened  chan bool     // gets whether the opening handshake has succeeded, and then two ends at most
	queue   []pageMessage // behind what is in the pipe, whose lock guards this, too
	queued  int           // bytes in the queue
}

// A pageMessage is one that has come, or the close frame.
type pageMessage struct {
	header  []byte   // or nil, if it has been read
	payload js.Value // a Uint8Array, in the memory of the page
	size    int
}

// open begins to connect. What the page throws is its error: one that has come by https may not
// use ws.
func (s *pageStream) open(constructor js.Value, url string, protocols []string) (err error) {
	defer func() {
		if thrown := recover(); thrown != nil {
			err = thrown.(js.Error)
		}
	}()
	offered := make([]any, len(protocols))
	for i, p := range protocols {
		offered[i] = p
	}
	s.ws = constructor.New(url, offered)
	s.ws.Set("binaryType", "arraybuffer")
	s.handler = js.FuncOf(s.handle)
	s.listen(s.handler)
	s.in.more = s.more
	go s.send()
	return nil
}

func (s *pageStream) listen(f any) {
	for _, name := range []string{"onopen", "onmessage", "onclose"} {
		s.ws.Set(name, f)
	}
}

// handle handles an event. The last one tells of a close frame, if one has come.
func (s *pageStream) handle(_ js.Value, args []js.Value) any {
	s.in.set(func() {
		switch event := args[0]; event.Get("type").String() {
		case "open":
			s.opened <- true
		case "message":
			if data := event.Get("data"); data.Type() == js.TypeString {
				s.put(opText, textEncoder.Call("encode", data))
			} else {
				s.put(opBinary, uint8Array.New(data))
			}
		case "close":
			if code := CloseCode(event.Get("code").Int()); code != CloseAbnormal {
				s.put(opClose, newUint8Array(appendClose(nil, code, event.Get("reason").String())))
			}
			s.end(io.EOF)
		}
	})
	return nil
}

// put queues a message. A page cannot make the peer wait, so if there is no room behind others, the
// connection ends.
func (s *pageStream) put(opcode byte, payload js.Value) {
	size := payload.Get("length").Int()
	if len(s.queue) > 0 && s.queued+queuedSize+size > s.limit && opcode != opClose {
		s.end(fmt.Errorf("more than %d bytes of messages wait to be read", s.limit))
		return
	}
	s.queue = append(s.queue, pageMessage{appendHeader(nil, finBit|opcode, false, size), payload, size})
	s.queued += queuedSize + size
}

// more takes more out of the queue for the pipe. Of a large message the rest stays where it is until
// the start has been read, as the Conn may refuse it. All gets new memory: the page has its own back
// when the garbage collector has run, and so that has to run the sooner, the more comes.
func (s *pageStream) more() []byte {
	if len(s.queue) == 0 {
		return nil
	}
	m := &s.queue[0]
	n, size := len(m.header), min(m.size, pipeSize)
	p := append(m.header, make([]byte, size)...)
	js.CopyBytesToGo(p[n:], m.payload)
	s.queued -= size
	if m.size -= size; m.size > 0 {
		m.header, m.payload = nil, m.payload.Call("subarray", size)
		return p
	}
	s.queue[0] = pageMessage{}
	s.queue = s.queue[1:]
	s.queued -= queuedSize
	return p
}

// end lets nothing more come behind the queue, and nothing more be sent.
func (s *pageStream) end(err error) {
	s.in.ended = err
	s.opened <- false
	s.listen(nil)
	s.handler.Release()
	s.out.drop()
}

// Close lets no more messages come. What has been written is still sent.
func (s *pageStream) Close() error {
	s.in.set(func() { s.listen(nil); s.queue = nil })
	s.handler.Release()
	return s.pipeEnd.Close()
}

// send sends messages once there is room, of which no event tells. The closing handshake it leaves to
// the browser, and out codes that a page must not send.
func (s *pageStream) send() {
	defer func() {
		if thrown := recover(); thrown != nil { // as at a text that is too long for the page
			s.in.set(func() { s.end(thrown.(js.Error)) })
		}
		s.ws.Call("close") // if it is still open
	}()
	r := bufio.NewReader(pipeEnd{in: s.out})
	for opcode, message := byte(0), []byte(nil); ; {
		b, _ := r.Peek(2)
		_, size := parseHeader(b)
		b, err := r.Peek(size)
		if err != nil {
			return
		}
		h, _ := parseHeader(b)
		r.Discard(size)
		n := len(message)
		message = append(message, make([]byte, h.length)...)
		_, err = io.ReadFull(r, message[n:])
		mask(message[n:], h.key)
		if err != nil || h.opcode == opClose {
			if code, reason, _ := parseClose(message[n:]); err == nil && (code == CloseNormal || code >= 3000) {
				s.ws.Call("close", int(code), reason)
			}
			return
		}
		if opcode |= h.opcode; !h.fin { // of a continuation it is 0
			continue
		}
		for s.ws.Get("bufferedAmount").Int() >= s.limit && s.ws.Get("onclose").Truthy() { // it has not ended
			time.Sleep(10 * time.Millisecond)
		}
		data := newUint8Array(message)
		if opcode == opText {
			data = textDecoder.Call("decode", data)
		}
		s.ws.Call("send", data)
		opcode, message = 0, nil // and not its memory again, as in more
	}
}

// newUint8Array returns a copy of p.
func newUint8Array(p []byte) js.Value {
	a := uint8Array.New(len(p))
	js.CopyBytesToJS(a, p)
	return a
}

// pingless is for Ping.
func (s *pageStream) pingless() {}
