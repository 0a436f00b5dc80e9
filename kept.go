// A request as its connection keeps it.

package websocket

import (
	"encoding/binary"
	"net/http"
	"strings"
	"sync"
)

// A keptRequest is a Request that takes less memory than its head had bytes, for as long as its
// connection lives: few programs look at it more than once. It is empty if there is none.
//
// It begins with numbers, as varints, of which the first says how many bytes the others take.
// Behind these come strings, whose lengths, and whether they are packed, are among the numbers:
//
//	version
//	flags: secure, and which texts are not empty
//	both headers, each field     length of the name, and 1; name and value, as one string
//	         behind them         0
//	texts and offered protocols  number of a value, place in it, length; or 0 and a string
type keptRequest string

// texts returns the strings of r, but for its fields and the subprotocols that are offered.
func (r *Request) texts() [9]*string {
	return [...]*string{&r.Host, &r.Path, &r.Origin, &r.Key, &r.Key1, &r.Key2, &r.Token, &r.Protocol, &r.Extensions}
}

// headers returns the fields of r.
func (r *Request) headers() [2]*http.Header {
	return [2]*http.Header{&r.Header, &r.ResponseHeader}
}

// phrases are what browsers and proxies send, names and values of fields without what is between
// them. A byte of a packed string from 0x80 on stands for one. The first of those that fit is used.
var phrases = [...]string{
	"Accept*/*", "Accept-Encodinggzip, deflate", "Accept-Languageen-US,en;q=0.", "Accept-Language",
	"Cache-Controlno-cache", "ConnectionUpgrade", "Connectionkeep-alive, Upgrade", "Cookie", "Dnt1",
	"Originhttps://", "Originhttp://", "Pragmano-cache", "Sec-Fetch-Destempty", "Sec-Fetch-Destwebsocket",
	"Sec-Fetch-Modewebsocket", "Sec-Fetch-Sitesame-", "Sec-Fetch-Sitecross-site", "Sec-Websocket-Extensions",
	"Sec-Websocket-Key", "Sec-Websocket-Protocol", "Sec-Websocket-Version13", "Upgradewebsocket",
	"User-AgentMozilla/5.0 (", "User-Agent", "X-Forwarded-", "X-Real-Ip",

	"Windows NT 10.0; Win64; x64", "X11; Linux x86_64", "Macintosh; Intel Mac OS X 10_15_7",
	"iPhone; CPU iPhone OS ", " like Mac OS X", "Linux; Android 10; K", "; rv:",
	") AppleWebKit/537.36 (KHTML, like Gecko) Chrome/", ") AppleWebKit/605.1.15 (KHTML, like Gecko) ",
	") Gecko/20100101 Firefox/", ".0.0.0", " Safari/537.36", " Safari/605.1.15", " Mobile", " Edg/", "Version/",

	"permessage-deflate", "; client_max_window_bits", ", br", ", zstd", ";q=0.", "localhost", "127.0.0.1",
	"https://", "http://", "www.", ".com",
}

// phrasesOf has the phrases that begin with a byte, as they are packed.
var phrasesOf = func() (of [256][]byte) {
	for i, p := range phrases {
		of[p[0]] = append(of[p[0]], 0x80+byte(i))
	}
	return of
}()

// maxPacked is the length of the longest string that is packed: what is longer, as some cookies are,
// would take long, and is better shared with the Requests that are made.
const maxPacked = 256

// appendPacked appends s to dst, packed, and reports whether it has been.
func appendPacked(dst, s []byte) (_ []byte, packed bool) {
	start, whole := len(dst), s
	if len(s) > maxPacked {
		return append(dst, s...), false
	}
next:
	for len(s) > 0 {
		for _, b := range phrasesOf[s[0]] {
			if p := phrases[b-0x80]; len(p) <= len(s) && string(s[:len(p)]) == p {
				dst, s, packed = append(dst, b), s[len(p):], true
				continue next
			}
		}
		if s[0] >= 0x80 {
			return append(dst[:start], whole...), false
		}
		dst, s = append(dst, s[0]), s[1:]
	}
	return dst, packed
}

// unpack returns what has been packed.
func unpack(packed string) string {
	var s strings.Builder
	for i := range len(packed) {
		if b := packed[i]; b < 0x80 {
			s.WriteByte(b)
		} else {
			s.WriteString(phrases[b-0x80])
		}
	}
	return s.String()
}

// A packer makes a keptRequest.
type packer struct {
	numbers, strings, whole []byte
	values                  []string // of the fields
}

// packers holds those that are not in use.
var packers = sync.Pool{New: func() any { return new(packer) }}

func (p *packer) put(n int) { p.numbers = binary.AppendUvarint(p.numbers, uint64(n)) }

// putString puts a string of two parts.
func (p *packer) putString(s, t string) {
	start, packed := len(p.strings), false
	p.whole = append(append(p.whole[:0], s...), t...)
	p.strings, packed = appendPacked(p.strings, p.whole)
	n := 2 * (len(p.strings) - start)
	if packed {
		n++
	}
	p.put(n)
}

// refer puts a string as a part of a value, the first behind a place that has it, and returns the
// place where that ends.
func (p *packer) refer(s string, value, from int) (int, int) {
	for i := value; i < len(p.values); i, from = i+1, 0 {
		if at := strings.Index(p.values[i][from:], s); at >= 0 {
			p.put(i + 1)
			p.put(from + at)
			p.put(len(s))
			return i, from + at + len(s)
		}
	}
	p.put(0)
	p.putString(s, "")
	return value, from
}

// keep returns a copy of r.
func (r *Request) keep() keptRequest {
	p := packers.Get().(*packer)
	defer packers.Put(p)
	p.numbers, p.strings = p.numbers[:0], p.strings[:0]
	flags, texts := 0, r.texts()
	if r.Secure {
		flags = 1
	}
	for i, s := range texts {
		if *s != "" {
			flags |= 2 << i
		}
	}
	p.put(int(r.Version))
	p.put(flags)
	for _, h := range r.headers() {
		for name, values := range *h {
			for _, v := range values {
				p.put(len(name) + 1)
				p.putString(name, v)
				p.values = append(p.values, v)
			}
		}
		p.put(0)
	}
	for _, s := range texts {
		if *s != "" {
			p.refer(*s, 0, 0)
		}
	}
	value, end := 0, 0
	for _, s := range r.Protocols { // in the order of the field, so all are found in one pass
		value, end = p.refer(s, value, end)
	}
	clear(p.values)
	p.values = p.values[:0]
	p.whole = append(append(binary.AppendUvarint(p.whole[:0], uint64(len(p.numbers))), p.numbers...), p.strings...)
	return keptRequest(p.whole)
}

// request returns a copy of what was kept. They share the strings that are not packed.
func (k keptRequest) request() *Request {
	n, used := binary.Uvarint([]byte(k[:min(len(k), binary.MaxVarintLen64)]))
	numbers, text := []byte(k[used:used+int(n)]), string(k[used+int(n):])
	next := func() int {
		n, used := binary.Uvarint(numbers)
		numbers = numbers[used:]
		return int(n)
	}
	cut := func() string {
		n := next()
		s := text[:n/2]
		if text = text[n/2:]; n%2 == 1 {
			return unpack(s)
		}
		return s
	}
	r := &Request{Version: Version(next())}
	flags := next()
	r.Secure = flags&1 != 0
	var values []string
	for _, h := range r.headers() {
		if h == &r.Header { // which is never nil
			*h = make(http.Header)
		}
		for n := next(); n > 0; n = next() {
			if *h == nil {
				*h = make(http.Header)
			}
			field := cut()
			name, v := field[:n-1], field[n-1:]
			(*h)[name] = append((*h)[name], v)
			values = append(values, v)
		}
	}
	referred := func() string {
		value := next()
		if value == 0 {
			return cut()
		}
		at := next()
		return values[value-1][at : at+next()]
	}
	for i, s := range r.texts() {
		if flags&(2<<i) != 0 {
			*s = referred()
		}
	}
	for len(numbers) > 0 {
		r.Protocols = append(r.Protocols, referred())
	}
	return r
}
