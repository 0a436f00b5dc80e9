// A request as its connection keeps it.

package websocket

import (
	"encoding/binary"
	"net/http"
	"strings"
)

// A keptRequest is a Request that takes about as much memory as its head had bytes, for as long
// as its connection lives: few programs look at it more than once.
type keptRequest struct {
	// packed has four bytes that say how many follow with numbers, as varints, and then text.
	// First in the text are the names and values of all fields. The numbers are the version,
	// whether it is secure, how many fields each header has and how long each name and value is,
	// and then where the other strings are in the text, most of them in a value, and how long.
	packed string
}

// texts returns the strings of r, but for its fields and the subprotocols that are offered.
func (r *Request) texts() []*string {
	return []*string{&r.Host, &r.Path, &r.Origin, &r.Key, &r.Key1, &r.Key2, &r.Token, &r.Protocol, &r.Extensions}
}

// headers returns the fields of r.
func (r *Request) headers() [2]*http.Header {
	return [2]*http.Header{&r.Header, &r.ResponseHeader}
}

// keep returns a copy of r.
func (r *Request) keep() *keptRequest {
	secure, size := 0, len(r.Host)+len(r.Path)
	if r.Secure {
		secure = 1
	}
	numbers := make([]byte, 4, 256)
	put := func(n int) { numbers = binary.AppendUvarint(numbers, uint64(n)) }
	put(int(r.Version))
	put(secure)
	headers := r.headers()
	for _, h := range headers {
		fields := 0
		for name, values := range *h {
			fields += len(values)
			for _, v := range values {
				size += len(name) + len(v)
			}
		}
		put(fields)
	}
	var text strings.Builder
	text.Grow(size)
	for _, h := range headers {
		for name, values := range *h {
			for _, v := range values {
				put(len(name))
				put(len(v))
				text.WriteString(name)
				text.WriteString(v)
			}
		}
	}
	refer := func(s string, from int) (end int) {
		at := text.Len()
		if i := strings.Index(text.String()[from:], s); i >= 0 {
			at = from + i
		} else {
			text.WriteString(s)
		}
		put(at)
		put(len(s))
		return at + len(s)
	}
	for _, s := range r.texts() {
		refer(*s, 0)
	}
	end := 0
	for _, p := range r.Protocols { // in the order of the field, so all are found in one pass
		end = refer(p, end)
	}
	binary.BigEndian.PutUint32(numbers, uint32(len(numbers)-4))
	return &keptRequest{string(numbers) + text.String()}
}

// request returns a copy of what was kept. They share the text.
func (k *keptRequest) request() *Request {
	size := 4 + binary.BigEndian.Uint32([]byte(k.packed[:4]))
	numbers, text := []byte(k.packed[4:size]), k.packed[size:]
	next := func() int {
		n, used := binary.Uvarint(numbers)
		numbers = numbers[used:]
		return int(n)
	}
	r := &Request{Version: Version(next()), Secure: next() == 1}
	headers, end := r.headers(), 0
	var fields [len(headers)]int
	for i := range fields {
		fields[i] = next()
	}
	cut := func() string {
		n := next()
		end += n
		return text[end-n : end]
	}
	for i, h := range headers {
		if fields[i] > 0 || h == &r.Header { // which is never nil
			*h = make(http.Header, fields[i])
		}
		for range fields[i] {
			name := cut()
			(*h)[name] = append((*h)[name], cut())
		}
	}
	referred := func() string {
		at := next()
		return text[at : at+next()]
	}
	for _, s := range r.texts() {
		*s = referred()
	}
	for len(numbers) > 0 {
		r.Protocols = append(r.Protocols, referred())
	}
	return r
}
