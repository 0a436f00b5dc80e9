package websocket

import (
	"bytes"
	"cmp"
	"compress/flate"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"maps"
	"math"
	"math/rand/v2"
	"net"
	"net/http"
	"os"
	"regexp"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
	"testing/synctest"
	"time"
	"unicode/utf8"
)

func sampleText(n int, seed uint64) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	var b strings.Builder
	for b.Len() < n {
		fmt.Fprintf(&b, `{"id":%d,"user":"user_%d","text":"the quick brown fox","tags":["alpha","beta"]}`, r.IntN(1e6), r.IntN(1000))
	}
	return []byte(b.String()[:n])
}

func deflatePair(t testing.TB, so, co *Options) (server, client *Conn) {
	a, b := net.Pipe()
	server = NewConn(a, so)
	res := goErr(func() error { _, err := ShakeHands(server); return err })
	client, err := ClientHandshake(b, "ws://h/", co)
	if err != nil {
		t.Fatal(err)
	}
	if err := <-res; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.CloseNow(); client.CloseNow() })
	return
}

// offering returns a client's handshake that offers extensions, in one field for each list.
func offering(t testing.TB, lists ...string) string {
	t.Helper()
	fields := ""
	for _, list := range lists {
		fields += "Sec-WebSocket-Extensions: " + list + "\r\n"
	}
	return editHead(t, rfcHead, "Sec-WebSocket-Version", fields+"Sec-WebSocket-Version")
}

// answered is the response to rfcHead.
func answered(extensions string) string {
	if extensions != "" {
		extensions = "Sec-WebSocket-Extensions: " + extensions + "\r\n"
	}
	return "HTTP/1.1 101 Switching Protocols\r\n" +
		"Upgrade: websocket\r\n" +
		"Connection: Upgrade\r\n" +
		"Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n" +
		extensions + "\r\n"
}

const (
	pmd        = "permessage-deflate"
	bothReset  = pmd + "; server_no_context_takeover; client_no_context_takeover"
	badOffer   = "400"
	badOptions = "500"
)

// deflateOffers are handshakes and how a server answers them (RFC 7692, section 7.1).
var deflateOffers = []struct {
	name   string
	d      *Deflate
	offers []string // a field each
	want   string   // the extensions of the response, or the status of a refusal
}{
	{"not enabled", nil, []string{pmd}, ""},
	{"not enabled, malformed", nil, []string{pmd + "; ="}, ""},
	{"no offer", &Deflate{}, nil, ""},
	{"empty field", &Deflate{}, []string{""}, ""},
	{"empty elements", &Deflate{}, []string{", ,"}, ""},
	{"plain", &Deflate{}, []string{pmd}, bothReset},
	{"plain, takeover", &Deflate{ContextTakeover: true}, []string{pmd}, pmd},
	{"plain, takeover, 15 bits", &Deflate{ContextTakeover: true, WindowBits: 15}, []string{pmd}, pmd},
	{"plain, 9 bits", &Deflate{WindowBits: 9}, []string{pmd}, bothReset + "; server_max_window_bits=9"},
	{"plain, takeover, 8 bits", &Deflate{ContextTakeover: true, WindowBits: 8}, []string{pmd}, pmd + "; server_max_window_bits=8"},
	{"empty elements around", &Deflate{}, []string{" , ," + pmd + " ,\t, "}, bothReset},
	{"tabs and spaces", &Deflate{ContextTakeover: true}, []string{"\t" + pmd + " \t;\tserver_no_context_takeover ; server_max_window_bits \t=\t 10 "},
		pmd + "; server_no_context_takeover; server_max_window_bits=10"},

	// 7.1.1: context takeover.
	{"server_no_context_takeover", &Deflate{ContextTakeover: true}, []string{pmd + "; server_no_context_takeover"}, pmd + "; server_no_context_takeover"},
	{"client_no_context_takeover", &Deflate{ContextTakeover: true}, []string{pmd + "; client_no_context_takeover"}, pmd + "; client_no_context_takeover"},
	{"no context takeover", &Deflate{ContextTakeover: true}, []string{pmd + "; client_no_context_takeover; server_no_context_takeover"}, bothReset},
	{"no context takeover on either side", &Deflate{}, []string{pmd + "; client_no_context_takeover; server_no_context_takeover"}, bothReset},
	{"server_no_context_takeover with a value", &Deflate{}, []string{pmd + "; server_no_context_takeover=1"}, ""},
	{"client_no_context_takeover with a value", &Deflate{}, []string{pmd + "; client_no_context_takeover=true"}, ""},
	{"server_no_context_takeover twice", &Deflate{}, []string{pmd + "; server_no_context_takeover; server_no_context_takeover"}, ""},
	{"client_no_context_takeover twice", &Deflate{}, []string{pmd + "; client_no_context_takeover; server_max_window_bits=9; client_no_context_takeover"}, ""},

	// 7.1.2: windows.
	{"server_max_window_bits", &Deflate{ContextTakeover: true}, []string{pmd + "; server_max_window_bits=10"}, pmd + "; server_max_window_bits=10"},
	{"server_max_window_bits=8", &Deflate{ContextTakeover: true}, []string{pmd + "; server_max_window_bits=8"}, pmd + "; server_max_window_bits=8"},
	{"server_max_window_bits=15", &Deflate{ContextTakeover: true}, []string{pmd + "; server_max_window_bits=15"}, pmd + "; server_max_window_bits=15"},
	{"server_max_window_bits, less wanted", &Deflate{ContextTakeover: true, WindowBits: 9}, []string{pmd + "; server_max_window_bits=10"}, pmd + "; server_max_window_bits=9"},
	{"server_max_window_bits, more wanted", &Deflate{ContextTakeover: true, WindowBits: 12}, []string{pmd + "; server_max_window_bits=10"}, pmd + "; server_max_window_bits=10"},
	{"server_max_window_bits without a value", &Deflate{}, []string{pmd + "; server_max_window_bits"}, ""},
	{"server_max_window_bits twice", &Deflate{}, []string{pmd + "; server_max_window_bits=10; server_max_window_bits=10"}, ""},
	{"client_max_window_bits", &Deflate{ContextTakeover: true}, []string{pmd + "; client_max_window_bits"}, pmd},
	{"client_max_window_bits, 12 wanted", &Deflate{ContextTakeover: true, WindowBits: 12}, []string{pmd + "; client_max_window_bits"},
		pmd + "; server_max_window_bits=12; client_max_window_bits=12"},
	{"client_max_window_bits=10", &Deflate{ContextTakeover: true}, []string{pmd + "; client_max_window_bits=10"}, pmd + "; client_max_window_bits=10"},
	{"client_max_window_bits=15", &Deflate{ContextTakeover: true}, []string{pmd + "; client_max_window_bits=15"}, pmd + "; client_max_window_bits=15"},
	{"client_max_window_bits=8", &Deflate{ContextTakeover: true}, []string{pmd + "; client_max_window_bits=8"}, pmd + "; client_max_window_bits=8"},
	{"client_max_window_bits=10, 12 wanted", &Deflate{ContextTakeover: true, WindowBits: 12}, []string{pmd + "; client_max_window_bits=10"},
		pmd + "; server_max_window_bits=12; client_max_window_bits=10"},
	{"client_max_window_bits=14, 12 wanted", &Deflate{ContextTakeover: true, WindowBits: 12}, []string{pmd + "; client_max_window_bits=14"},
		pmd + "; server_max_window_bits=12; client_max_window_bits=12"},
	{"client_max_window_bits twice", &Deflate{}, []string{pmd + "; client_max_window_bits; client_max_window_bits"}, ""},
	{"client_max_window_bits twice, once with a value", &Deflate{}, []string{pmd + "; client_max_window_bits=10; client_max_window_bits"}, ""},
	{"all parameters", &Deflate{ContextTakeover: true, WindowBits: 11},
		[]string{pmd + "; client_max_window_bits=12; server_max_window_bits=13; client_no_context_takeover; server_no_context_takeover"},
		bothReset + "; server_max_window_bits=11; client_max_window_bits=11"},
	{"7", &Deflate{}, []string{pmd + "; server_max_window_bits=7"}, ""},
	{"16", &Deflate{}, []string{pmd + "; server_max_window_bits=16"}, ""},
	{"client 7", &Deflate{}, []string{pmd + "; client_max_window_bits=7"}, ""},
	{"client 16", &Deflate{}, []string{pmd + "; client_max_window_bits=16"}, ""},
	{"0", &Deflate{}, []string{pmd + "; client_max_window_bits=0"}, ""},
	{"leading zero", &Deflate{}, []string{pmd + "; server_max_window_bits=010"}, ""},
	{"leading zero of one digit", &Deflate{}, []string{pmd + "; client_max_window_bits=08"}, ""},
	{"plus", &Deflate{}, []string{pmd + "; server_max_window_bits=+10"}, ""},
	{"minus", &Deflate{}, []string{pmd + "; client_max_window_bits=-10"}, ""},
	{"fraction", &Deflate{}, []string{pmd + "; client_max_window_bits=10.0"}, ""},
	{"hexadecimal", &Deflate{}, []string{pmd + "; client_max_window_bits=0xa"}, ""},
	{"underscore", &Deflate{}, []string{pmd + "; client_max_window_bits=1_0"}, ""},
	{"letters", &Deflate{}, []string{pmd + "; client_max_window_bits=ten"}, ""},
	{"huge", &Deflate{}, []string{pmd + "; server_max_window_bits=18446744073709551626"}, ""},

	// Quoted values (RFC 6455, section 9.1).
	{"quoted", &Deflate{ContextTakeover: true}, []string{pmd + `; server_max_window_bits="10"`}, pmd + "; server_max_window_bits=10"},
	{"quoted with backslashes", &Deflate{ContextTakeover: true}, []string{pmd + `; client_max_window_bits="\1\0"`}, pmd + "; client_max_window_bits=10"},
	{"quoted value of a flag", &Deflate{}, []string{pmd + `; server_no_context_takeover="1"`}, ""},
	{"quoted leading zero", &Deflate{}, []string{pmd + `; server_max_window_bits="\010"`}, ""},
	{"quoted and unknown", &Deflate{ContextTakeover: true}, []string{`x; a="b\c"; d, ` + pmd}, pmd},
	{"quoted empty", &Deflate{}, []string{pmd + `; server_max_window_bits=""`}, badOffer},
	{"quoted space", &Deflate{}, []string{pmd + `; server_max_window_bits=" 10"`}, badOffer},
	{"quoted separators", &Deflate{}, []string{`x; a="b, ` + pmd + `; c"`}, badOffer},
	{"quoted quote", &Deflate{}, []string{`x; a="b\"", ` + pmd}, badOffer},
	{"quoted backslash", &Deflate{}, []string{`x; a="b\\", ` + pmd}, badOffer},
	{"quote not closed", &Deflate{}, []string{pmd + `; server_max_window_bits="10`}, badOffer},
	{"quote not opened", &Deflate{}, []string{pmd + `; server_max_window_bits=10"`}, badOffer},
	{"quote not closed behind a backslash", &Deflate{}, []string{pmd + `; server_max_window_bits="10\"`}, badOffer},
	{"quote not closed behind two values", &Deflate{}, []string{pmd + `; server_max_window_bits="10", x; a="`}, badOffer},
	{"a lone quote", &Deflate{}, []string{pmd + `; server_max_window_bits="`}, badOffer},
	{"two quoted values", &Deflate{}, []string{pmd + `; server_max_window_bits="1""0"`}, badOffer},
	{"quoted name", &Deflate{}, []string{`"` + pmd + `"`}, badOffer},
	{"quoted name of a parameter", &Deflate{}, []string{pmd + `; "client_max_window_bits"`}, badOffer},

	// Unknown parameters and extensions.
	{"unknown parameter", &Deflate{}, []string{pmd + "; x"}, ""},
	{"unknown parameter with a value", &Deflate{}, []string{pmd + "; client_max_window_bits; x=1"}, ""},
	{"unknown extension", &Deflate{}, []string{"x-webkit-deflate-frame"}, ""},
	{"unknown extension with parameters", &Deflate{}, []string{"x-webkit-deflate-frame; no_context_takeover; max_window_bits=10"}, ""},
	{"a longer name", &Deflate{}, []string{pmd + "d"}, ""},
	{"a shorter name", &Deflate{}, []string{"permessage-deflat, permessage"}, ""},
	{"extension in front", &Deflate{}, []string{"x; a; b=1, " + pmd}, bothReset},
	{"extension behind", &Deflate{}, []string{pmd + ", mux; max-channels=4; flow-control"}, bothReset},
	{"extensions around, in fields", &Deflate{}, []string{"x", pmd, "y"}, bothReset},
	{"upper case", &Deflate{ContextTakeover: true}, []string{"Permessage-DEFLATE; SERVER_No_Context_Takeover; Client_Max_Window_Bits=9"},
		pmd + "; server_no_context_takeover; client_max_window_bits=9"},
	{"twice in two cases", &Deflate{}, []string{pmd + "; client_max_window_bits; CLIENT_MAX_WINDOW_BITS"}, ""},

	// 5.1: the first offer that can be accepted is.
	{"two offers", &Deflate{ContextTakeover: true}, []string{pmd + "; server_max_window_bits=10, " + pmd}, pmd + "; server_max_window_bits=10"},
	{"two fields", &Deflate{ContextTakeover: true}, []string{pmd + "; server_max_window_bits=10", pmd}, pmd + "; server_max_window_bits=10"},
	{"the first declined", &Deflate{ContextTakeover: true}, []string{pmd + "; server_max_window_bits=7, " + pmd + "; server_no_context_takeover"},
		pmd + "; server_no_context_takeover"},
	{"the first field declined", &Deflate{ContextTakeover: true}, []string{pmd + "; new", pmd + "; client_no_context_takeover, " + pmd},
		pmd + "; client_no_context_takeover"},
	{"all declined", &Deflate{}, []string{pmd + "; new, " + pmd + "; server_max_window_bits", pmd + "; client_max_window_bits=99"}, ""},

	// What is no list of extensions.
	{"no value", &Deflate{}, []string{pmd + "; server_max_window_bits="}, badOffer},
	{"no value of a flag", &Deflate{}, []string{pmd + "; server_no_context_takeover="}, badOffer},
	{"no name", &Deflate{}, []string{pmd + "; =10"}, badOffer},
	{"no parameter", &Deflate{}, []string{pmd + ";"}, badOffer},
	{"no parameter between", &Deflate{}, []string{pmd + "; ; client_max_window_bits"}, badOffer},
	{"no extension", &Deflate{}, []string{"; client_max_window_bits"}, badOffer},
	{"value of an extension", &Deflate{}, []string{pmd + "=1"}, badOffer},
	{"two names", &Deflate{}, []string{pmd + " x"}, badOffer},
	{"two names of a parameter", &Deflate{}, []string{pmd + "; client_max_window_bits x"}, badOffer},
	{"two values", &Deflate{}, []string{pmd + "; client_max_window_bits=10 10"}, badOffer},
	{"two equals signs", &Deflate{}, []string{pmd + "; client_max_window_bits==10"}, badOffer},
	{"no token", &Deflate{}, []string{pmd + "; a@b"}, badOffer},
	{"beyond ASCII", &Deflate{}, []string{"é"}, badOffer},
	{"malformed behind a valid offer", &Deflate{}, []string{pmd + ", ;"}, badOffer},
	{"malformed field behind a valid one", &Deflate{}, []string{pmd, "x y"}, badOffer},

	// Options.
	{"level", &Deflate{Level: 10}, []string{pmd}, badOptions},
	{"low level", &Deflate{Level: -3}, []string{pmd}, badOptions},
	{"7 window bits", &Deflate{WindowBits: 7}, []string{pmd}, badOptions},
	{"16 window bits", &Deflate{WindowBits: 16}, []string{pmd}, badOptions},
	{"negative window bits", &Deflate{WindowBits: -9}, nil, badOptions},
}

// checkOffer checks how a handshake has gone that is to end with want, and what was written.
func checkOffer(t *testing.T, way, want string, c *Conn, extensions, wrote string, err error) {
	t.Helper()
	if want == badOffer || want == badOptions {
		e, ok := errors.AsType[*HandshakeError](err)
		if !ok || strconv.Itoa(e.Status) != want || (e.Field == "Sec-WebSocket-Extensions") != (want == badOffer) || !strings.Contains(wrote, want) {
			t.Errorf("%s: %v, wrote %q", way, err, wrote)
		}
		return
	}
	if err != nil || extensions != want || wrote != answered(want) {
		t.Errorf("%s: extensions %q, %v, wrote %q", way, extensions, err, wrote)
	}
	if c != nil && (c.deflate != nil) != (want != "") {
		t.Errorf("%s: the connection has compression: %t", way, c.deflate != nil)
	}
}

func TestDeflateNegotiation(t *testing.T) {
	t.Parallel()
	for _, tt := range deflateOffers {
		t.Run(tt.name, func(t *testing.T) {
			head := offering(t, tt.offers...)
			o := &Options{Deflate: tt.d, Origins: []string{"*"}}

			stream := &memStream{Reader: strings.NewReader(head)}
			c := NewConn(stream, o)
			req, err := ShakeHands(c)
			if req == nil {
				req = &Request{}
			}
			checkOffer(t, "ShakeHands", tt.want, c, req.Extensions, stream.out.String(), err)
			if err == nil && string(CreateResponse(req)) != answered(tt.want) {
				t.Errorf("CreateResponse: %q", CreateResponse(req))
			}

			w := newHijackWriter()
			r := parsedRequest(t, head)
			if c, err = Upgrade(w, r, o); c != nil {
				checkOffer(t, "Upgrade", tt.want, c, c.Request().Extensions, string(w.conn.written()), err)
				c.CloseNow()
			} else {
				checkOffer(t, "Upgrade", tt.want, nil, "", fmt.Sprint(w.Code, " ", w.Body), err)
			}

			// A stream of the caller's is not compressed, whatever the client offers.
			stream = &memStream{Reader: strings.NewReader(head)}
			if req, err := ShakeHands(stream); err != nil || req.Extensions != "" || stream.out.String() != answered("") {
				t.Errorf("bare: %+v, %v, wrote %q", req, err, stream.out.String())
			}
		})
	}
}

// hixie-76 has no extensions.
func TestDeflateHixie(t *testing.T) {
	t.Parallel()
	head := editHead(t, hixieHead, "Origin", "Sec-WebSocket-Extensions: "+pmd+"\r\nOrigin") + hixieToken
	for _, d := range []*Deflate{{}, {Level: 99}} {
		stream := &memStream{Reader: strings.NewReader(head)}
		c := NewConn(stream, &Options{Deflate: d})
		req, err := ShakeHands(c)
		if err != nil || req.Extensions != "" || c.deflate != nil || strings.Contains(stream.out.String(), "Extensions") {
			t.Errorf("%+v: %+v, %v, wrote %q", d, req, err, stream.out.String())
		}
	}
	req := checkAccepted(t, head)
	req.Extensions = pmd
	if got := CreateResponse(req); got != nil {
		t.Errorf("response %q", got)
	}
	checkNoResponse(t, req)
}

// A filter may change what is answered as far as the client allows it.
func TestDeflateFilter(t *testing.T) {
	t.Parallel()
	offer := []string{pmd + "; server_no_context_takeover; client_max_window_bits=12, " + pmd + "; server_max_window_bits=10", "x"}
	for _, tt := range []struct {
		extensions string
		ok         bool
	}{
		{"", true},
		{pmd + "; server_no_context_takeover; client_max_window_bits=12", true},
		{pmd + "; server_no_context_takeover", true},
		{pmd + "; server_no_context_takeover; client_no_context_takeover", true},
		{"Permessage-Deflate;Server_No_Context_Takeover;server_max_window_bits=\"9\"", true},
		{pmd + "; server_max_window_bits=10", true}, // fits the second offer
		{pmd + "; server_max_window_bits=9", true},
		{pmd, false},
		{pmd + "; server_max_window_bits=11", false},
		{pmd + "; server_max_window_bits=10; client_max_window_bits=9", false},
		{pmd + "; server_no_context_takeover; client_max_window_bits=13", false},
		{pmd + "; server_no_context_takeover; client_max_window_bits", false},
		{pmd + "; server_no_context_takeover; server_no_context_takeover", false},
		{pmd + "; server_no_context_takeover; y", false},
		{pmd + "; server_no_context_takeover, x", false},
		{pmd + "; server_no_context_takeover, " + pmd + "; server_max_window_bits=10", false},
		{"x", false},
		{"y", false},
		{" ", false},
		{",", false},
		{pmd + ";", false},
		{pmd + "; server_no_context_takeover\r\nX: y", false},
		{pmd + "; server_no_context_takeover\r\n", false},
		{"\r\n" + pmd + "; server_no_context_takeover", false},
		{pmd + "; server_no_context_takeover\n", false},
		{pmd + "; server_no_context_takeover\r\n\r\n", false},
		{pmd + "; server_max_window_bits=\"1\\\r\\\n0\"", false},
		{pmd + "; server_max_window_bits=\"10\\\"", false},
		{pmd + "; server_max_window_bits=10\x00", false},
		{pmd + "; server_max_window_bits=10\x7f", false},
	} {
		t.Run(fmt.Sprintf("%q", tt.extensions), func(t *testing.T) {
			for _, d := range []*Deflate{nil, {ContextTakeover: true}} {
				stream := &memStream{Reader: strings.NewReader(offering(t, offer...))}
				c := NewConn(stream, &Options{Deflate: d})
				req, err := GetRequest(c)
				if err != nil {
					t.Fatal(err)
				}
				req.Extensions = tt.extensions
				response := string(CreateResponse(req))
				err = PutResponse(c, req)
				if !tt.ok {
					if _, ok := errors.AsType[*HandshakeError](err); !ok || response != "" || stream.writes != 0 || c.deflate != nil {
						t.Errorf("%v, wrote %q, CreateResponse %q", err, stream.out.String(), response)
					}
					checkNoResponse(t, req)
					continue
				}
				want := answered(tt.extensions)
				if err != nil || stream.out.String() != want || response != want || (c.deflate != nil) != (tt.extensions != "") {
					t.Errorf("%v, wrote %q, CreateResponse %q", err, stream.out.String(), response)
				}
				bare := &memStream{Reader: strings.NewReader("")}
				err = PutResponse(bare, req)
				if e, ok := errors.AsType[*HandshakeError](err); tt.extensions != "" && (!ok || e.Status != 500 || bare.writes != 0) || tt.extensions == "" && err != nil {
					t.Errorf("bare: %v, wrote %q", err, bare.out.String())
				}
			}
		})
	}
}

// The parameters that were agreed on are kept, on both sides.
func TestDeflateParameters(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		server, client     Deflate
		want               string
		toClient, toServer window // as they are on the sending side
	}{
		{Deflate{}, Deflate{}, bothReset, window{bits: 15}, window{bits: 15}},
		{Deflate{ContextTakeover: true}, Deflate{}, bothReset, window{bits: 15}, window{bits: 15}},
		{Deflate{}, Deflate{ContextTakeover: true}, bothReset, window{bits: 15}, window{bits: 15}},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true}, pmd, window{takeover: true, bits: 15}, window{takeover: true, bits: 15}},
		{Deflate{ContextTakeover: true, WindowBits: 9}, Deflate{ContextTakeover: true, WindowBits: 12},
			pmd + "; server_max_window_bits=9; client_max_window_bits=9", window{takeover: true, bits: 9}, window{takeover: true, bits: 9}},
		{Deflate{ContextTakeover: true, WindowBits: 12}, Deflate{ContextTakeover: true, WindowBits: 8},
			pmd + "; server_max_window_bits=8; client_max_window_bits=8", window{takeover: true, bits: 8}, window{takeover: true, bits: 8}},
		{Deflate{ContextTakeover: true, WindowBits: 12}, Deflate{ContextTakeover: true},
			pmd + "; server_max_window_bits=12; client_max_window_bits=12", window{takeover: true, bits: 12}, window{takeover: true, bits: 12}},
	} {
		server, client := deflatePair(t, &Options{Deflate: &tt.server}, &Options{Deflate: &tt.client})
		if got := server.Request().Extensions; got != tt.want || client.Request().Extensions != tt.want {
			t.Errorf("%+v, %+v: agreed on %q and %q", tt.server, tt.client, got, client.Request().Extensions)
		}
		for _, w := range []struct {
			got  window
			want window
		}{
			{server.deflate.send, tt.toClient},
			{server.deflate.recv, tt.toServer},
			{client.deflate.send, tt.toServer},
			{client.deflate.recv, tt.toClient},
		} {
			if w.got.takeover != w.want.takeover || w.got.bits != w.want.bits {
				t.Errorf("%+v, %+v: window %+v, want %+v", tt.server, tt.client, w.got, w.want)
			}
		}
	}
}

func TestDeflateUpgradeHTTP1(t *testing.T) {
	t.Parallel()
	u := newUpgrader(&Options{Origins: []string{"*"}, Deflate: &Deflate{}})
	conn := dialTCP(t, serveTCP(t, u, false))
	hello := appendFrame(nil, finBit|rsv1Bit|opText, []byte(rfcHello), true)
	if _, err := conn.Write(append([]byte(offering(t, pmd)), hello...)); err != nil {
		t.Fatal(err)
	}
	expect(t, conn, answered(bothReset))
	if typ, p, err := u.accepted(t).ReadMessage(); typ != Text || string(p) != "Hello" || err != nil {
		t.Errorf("read %v %q, %v", typ, p, err)
	}
}

func TestDeflateUpgradeHTTP2(t *testing.T) {
	runHTTP2(t, []http2Test{{"deflate", false, func(t *testing.T, certs []tls.Certificate) {
		requests := make(chan *Request, 1)
		c := openHTTP2(t, certs, serve2(&Options{Deflate: &Deflate{Threshold: -1}}, func(h *Conn) {
			requests <- h.Request()
			echo(h)
		}), nil)
		resp, s := c.connect(t, "Sec-Websocket-Extensions", "x, "+pmd+"; client_max_window_bits")
		if got := resp.Header["Sec-Websocket-Extensions"]; resp.StatusCode != 200 || !slices.Equal(got, []string{bothReset}) {
			t.Fatalf("%s, extensions %q", resp.Status, got)
		}
		if got := wait(t, requests).Extensions; got != bothReset {
			t.Errorf("the request has %q", got)
		}
		if _, err := s.Write(appendFrame(nil, finBit|rsv1Bit|opText, []byte(rfcHello), true)); err != nil {
			t.Fatal(err)
		}
		expect(t, s, "\x81\x05Hello") // which would not become shorter

		resp, _ = c.connect(t, "Sec-Websocket-Extensions", pmd+"; x")
		if got := resp.Header["Sec-Websocket-Extensions"]; resp.StatusCode != 200 || got != nil {
			t.Errorf("%s, extensions %q", resp.Status, got)
		}
		resp, _ = c.connect(t, "Sec-Websocket-Extensions", pmd+";")
		if resp.StatusCode != 400 {
			t.Error(resp.Status)
		}
	}}})
}

// What clients offer, and which responses they take for an answer to that.
func TestDeflateClient(t *testing.T) {
	t.Parallel()
	const allOffered = bothReset + "; server_max_window_bits=10; client_max_window_bits=10"
	type response struct {
		extensions []string // a field each
		ok         bool
	}
	// What no client takes for an answer.
	bad := []response{
		{[]string{""}, false},
		{[]string{"", ""}, false},
		{[]string{","}, false},
		{[]string{"x"}, false},
		{[]string{pmd + ", x"}, false},
		{[]string{"x, " + bothReset}, false},
		{[]string{bothReset + ", " + bothReset}, false},
		{[]string{bothReset, bothReset}, false},
		{[]string{bothReset, "x"}, false},
		{[]string{bothReset + "; x"}, false},
		{[]string{bothReset + ";"}, false},
		{[]string{bothReset + "; server_no_context_takeover"}, false},
		{[]string{bothReset + "; client_max_window_bits=9; client_max_window_bits=9"}, false},
		{[]string{bothReset + "; client_max_window_bits"}, false},
		{[]string{bothReset + "; server_max_window_bits"}, false},
		{[]string{bothReset + "; server_max_window_bits="}, false},
		{[]string{bothReset + "; server_max_window_bits=7"}, false},
		{[]string{bothReset + "; server_max_window_bits=16"}, false},
		{[]string{bothReset + "; server_max_window_bits=09"}, false},
		{[]string{bothReset + `; server_max_window_bits="10\"`}, false},
		{[]string{bothReset + "; client_max_window_bits=16"}, false},
		{[]string{pmd + "; server_no_context_takeover=1"}, false},
		{[]string{"permessage-deflate=1"}, false},
	}
	for _, tt := range []struct {
		name    string
		d       *Deflate
		offer   string
		answers []response
	}{
		{"none", nil, "", []response{
			{nil, true},
			{[]string{pmd}, false},
			{[]string{bothReset}, false},
		}},
		{"zero", &Deflate{}, bothReset + "; client_max_window_bits", []response{
			{nil, true},
			{[]string{bothReset}, true},
			{[]string{pmd + "; server_no_context_takeover"}, true}, // 7.1.1.2: the rest was a hint
			{[]string{"Permessage-Deflate;server_NO_context_takeover"}, true},
			{[]string{" ," + bothReset + ", "}, true},
			{[]string{bothReset + "; server_max_window_bits=8; client_max_window_bits=8"}, true},
			{[]string{bothReset + `; server_max_window_bits="1\5"; client_max_window_bits=15`}, true},
			{[]string{pmd}, false},
			{[]string{pmd + "; client_no_context_takeover"}, false},
		}},
		{"takeover", &Deflate{ContextTakeover: true}, pmd + "; client_max_window_bits", []response{
			{[]string{pmd}, true},
			{[]string{bothReset}, true},
			{[]string{pmd + "; client_no_context_takeover"}, true},
			{[]string{pmd + "; client_max_window_bits=9"}, true},
			{[]string{pmd + "; server_max_window_bits=9"}, true}, // 7.1.2.1: though it was not asked for
		}},
		{"15 bits", &Deflate{ContextTakeover: true, WindowBits: 15}, pmd + "; client_max_window_bits", []response{
			{[]string{pmd + "; server_max_window_bits=15; client_max_window_bits=15"}, true},
		}},
		{"10 bits", &Deflate{WindowBits: 10}, allOffered, []response{
			{[]string{allOffered}, true},
			{[]string{bothReset + "; server_max_window_bits=9; client_max_window_bits=8"}, true},
			{[]string{bothReset + "; server_max_window_bits=10"}, true},
			{[]string{bothReset}, false},
			{[]string{bothReset + "; client_max_window_bits=10"}, false},
			{[]string{bothReset + "; server_max_window_bits=11"}, false},
			{[]string{bothReset + "; server_max_window_bits=10; client_max_window_bits=11"}, false},
		}},
	} {
		answers := tt.answers
		if tt.d != nil {
			answers = slices.Concat(answers, bad)
		}
		for _, a := range answers {
			for _, by := range connectors {
				t.Run(fmt.Sprintf("%s/%q/%s", tt.name, a.extensions, by.name), func(t *testing.T) {
					fields := ""
					for _, e := range a.extensions {
						fields += "Sec-WebSocket-Extensions: " + e + "\r\n"
					}
					text := strings.Replace(accepting, "\r\n\r\n", "\r\n"+fields+"\r\n", 1)
					head := make(chan string, 1)
					c, err := by.connect(t, t.Context(), "ws://h/", &Options{Deflate: tt.d}, func(conn net.Conn) {
						head <- answer(conn, text)
						io.Copy(io.Discard, conn)
					})
					offer := headField(wait(t, head), "Sec-WebSocket-Extensions")
					if offer != tt.offer && !(tt.offer == "" && offer == "\x00[]") {
						t.Errorf("offered %q, want %q", offer, tt.offer)
					}
					if !a.ok {
						e, ok := errors.AsType[*HandshakeError](err)
						if c != nil || !ok || e.Field != "Sec-WebSocket-Extensions" {
							t.Fatalf("%v, %v", c, err)
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					if got := c.Request().Extensions; got != strings.Trim(strings.Join(a.extensions, ", "), " ") ||
						(c.deflate != nil) != (got != "") {
						t.Errorf("extensions %q, compression %t", got, c.deflate != nil)
					}
					c.CloseNow()
				})
			}
		}
	}
}

// A client with options that are not valid does not connect, and one cannot offer extensions
// of its own.
func TestDeflateClientOptions(t *testing.T) {
	t.Parallel()
	for _, o := range []*Options{
		{Deflate: &Deflate{Level: 10}},
		{Deflate: &Deflate{Level: -3}},
		{Deflate: &Deflate{WindowBits: 7}},
		{Deflate: &Deflate{WindowBits: 16}},
		{Deflate: &Deflate{WindowBits: -1}},
		{Header: http.Header{"sec-websocket-extensions": {pmd}}},
	} {
		for _, by := range connectors {
			c, err := by.connect(t, context.Background(), "ws://h/", o, func(conn net.Conn) {
				if n, _ := conn.Read(make([]byte, 1)); n > 0 {
					t.Errorf("%s: %+v: a request was sent", by.name, o)
				}
			})
			if c != nil || err == nil {
				t.Errorf("%s: %+v: %v, %v", by.name, o, c, err)
			}
		}
	}
}

// Examples of RFC 7692, section 7.2.3.
const (
	rfcHello     = "\xf2\x48\xcd\xc9\xc9\x07\x00"
	rfcShared    = "\xf2\x00\x11\x00\x00" // refers to an earlier Hello
	rfcStored    = "\x00\x05\x00\xfa\xffHello\x00"
	rfcFinal     = "\xf3\x48\xcd\xc9\xc9\x07\x00\x00"
	rfcTwoBlocks = "\xf2\x48\x05\x00\x00\x00\xff\xff\xca\xc9\xc9\x07\x00"
)

// packedConn returns a Conn that has agreed on compression.
func packedConn(rw io.ReadWriter, o *Options, client, takeover bool) *Conn {
	c := newConn(rw, o, client)
	c.deflate = newDeflation(c.opts.Deflate, deflateParams{serverReset: !takeover, clientReset: !takeover}, client)
	c.dec.deflate = true
	return c
}

// A peerDeflater compresses the messages of a peer that lets them refer to each other.
type peerDeflater struct {
	w   *flate.Writer
	out bytes.Buffer
}

func newPeerDeflater(level int) *peerDeflater {
	p := new(peerDeflater)
	p.w, _ = flate.NewWriter(&p.out, level)
	return p
}

func (p *peerDeflater) message(m string) string {
	p.out.Reset()
	io.WriteString(p.w, m)
	p.w.Flush()
	return strings.TrimSuffix(p.out.String(), syncMarker)
}

// deflatedOnce is a message compressed on its own.
func deflatedOnce(level int, m string) string { return newPeerDeflater(level).message(m) }

// storedFinal is a message in one stored block that is the last of its stream.
func storedFinal(m string) string {
	b := binary.LittleEndian.AppendUint16([]byte{1}, uint16(len(m)))
	return string(binary.LittleEndian.AppendUint16(b, ^uint16(len(m)))) + m + "\x00"
}

// inflateAs inflates a message as RFC 7692, section 7.2.2 says, except that its last block
// may also be the last of the stream. It reports false if it is not valid.
func inflateAs(message string, history []byte) ([]byte, bool) {
	var want []byte
	// With both endings only what ends between two blocks is valid.
	for i, end := range []string{"\x01\x00\x00\xff\xff", "\x03\x00"} {
		end = syncMarker + end
		in := strings.NewReader(message + end)
		f := flate.NewReaderDict(in, history)
		var all []byte
		for {
			p, err := io.ReadAll(f)
			all = append(all, p...)
			if err != nil || in.Len() > 0 && in.Len() < len(end) {
				return nil, false
			}
			if in.Len() == 0 || in.Len() == len(end) {
				break
			}
			f.(flate.Resetter).Reset(in, nil)
		}
		if i > 0 && !bytes.Equal(all, want) {
			return nil, false
		}
		want = all
	}
	return want, true
}

// packedReads are the ways to read from a Conn.
var packedReads = append(slices.Clip(wireReads), []struct {
	name string
	all  func(*Conn) ([]wireMessage, error)
}{
	{"NextReader, small", func(c *Conn) (got []wireMessage, err error) {
		for {
			t, r, err := c.NextReader()
			if err != nil {
				return got, err
			}
			p, err := io.ReadAll(iotest.OneByteReader(r))
			if err != nil {
				return got, err
			}
			got = append(got, wireMessage{t, string(p)})
		}
	}},
	{"NextReader, large", func(c *Conn) (got []wireMessage, err error) {
		for {
			t, r, err := c.NextReader()
			if err != nil {
				return got, err
			}
			var b bytes.Buffer
			if _, err := io.CopyBuffer(struct{ io.Writer }{&b}, r, make([]byte, 100<<10)); err != nil {
				return got, err
			}
			got = append(got, wireMessage{t, b.String()})
		}
	}},
	{"Read, small", func(c *Conn) ([]wireMessage, error) {
		var all []byte
		for p := make([]byte, 3); ; {
			n, err := c.Read(p)
			all = append(all, p[:n]...)
			if err != nil {
				return []wireMessage{{0, string(all)}}, err
			}
		}
	}},
	{"Serve", func(c *Conn) (got []wireMessage, err error) {
		err = c.Serve(Handler{OnMessage: func(_ *Conn, t MessageType, p []byte) {
			got = append(got, wireMessage{t, string(p)})
		}})
		return got, err
	}},
}...)

// checkPacked reads all from a peer that sends frames, in every way, and checks what comes of
// it: the messages, and then the failure of the connection with code, or if that is 0, io.EOF.
func checkPacked(t *testing.T, frames []wireFrame, o *Options, takeover bool, want []wireMessage, code CloseCode, thorough bool) {
	t.Helper()
	for _, client := range []bool{false, true} {
		var wire []byte
		for _, f := range frames {
			wire = f.append(wire, !client, false)
		}
		for _, chunks := range wireChunks {
			for _, way := range packedReads {
				if !thorough && (client || chunks.name != "whole") {
					continue
				}
				rw := new(tape)
				in := chunks.of(bytes.NewReader(bytes.Clone(wire)))
				c := packedConn(wireStream{in, rw}, o, client, takeover)
				got, err := way.all(c)
				name := fmt.Sprintf("client %t, %s, %s", client, chunks.name, way.name)
				if !sameMessages(got, want, code != 0) {
					t.Errorf("%s: got %q, want %q", name, describe(got), describe(want))
				}
				if code == 0 {
					if err != io.EOF {
						t.Errorf("%s: %v", name, err)
					}
					continue
				}
				checkCode(t, err, code, byFailure)
				sent, err := parseWire(rw.written(), client)
				if len(sent) != 1 || err != nil || sent[0].first != 0x88 || !strings.HasPrefix(sent[0].p, closing(code, "")) {
					t.Errorf("%s: sent %+v, %v", name, sent, err)
				}
			}
		}
	}
}

// The reserved bits of frames where compression is agreed on (RFC 7692, section 6).
func TestDeflateFrameRules(t *testing.T) {
	t.Parallel()
	hello := []wireMessage{{Text, "Hello"}}
	check := func(name string, want []wireMessage, frames ...wireFrame) {
		t.Run(name, func(t *testing.T) {
			checkPacked(t, frames, nil, true, want, CloseProtocolError, true)
		})
	}
	whole, begun := wf(0xC1, rfcHello), wf(0x41, rfcHello[:3])
	check("continuation", nil, begun, wfHead(0xC0))
	check("continuation, not final", nil, begun, wfHead(0x40))
	check("continuation of a message as it is", nil, wf(0x01, "a"), wfHead(0xC0))
	check("continuation of nothing", hello, whole, wfHead(0xC0))
	check("within a message", nil, begun, wfHead(0xC1))
	check("plain within a message", nil, begun, wfHead(0x82))
	for _, opcode := range []byte{3, 7, 8, 9, 0xA, 0xB, 0xF} {
		check(fmt.Sprintf("RSV1 of opcode %#x", opcode), hello, whole, wfHead(0xC0|opcode))
		check(fmt.Sprintf("RSV1 of opcode %#x within a message", opcode), nil, begun, wfHead(0xC0|opcode))
	}
	for _, rsv := range []byte{0x10, 0x20, 0x30, 0x50, 0x60, 0x70} {
		for _, first := range []byte{0x81, 0x82, 0x01, 0x02, 0x88, 0x89, 0x8A} {
			check(fmt.Sprintf("reserved bits %#x", first|rsv), hello, whole, wfHead(first|rsv))
		}
		check(fmt.Sprintf("reserved bits %#x of a continuation", rsv), nil, begun, wfHead(0x80|rsv))
	}
	for _, client := range []bool{false, true} {
		for _, first := range []byte{0xC1, 0xC2, 0x41, 0x42} {
			c, rw := tapeConn(nil, client, false)
			rw.in = [][]byte{wfHead(first).append(nil, !client, false)}
			_, _, err := c.ReadMessage()
			checkCode(t, err, CloseProtocolError, byFailure) // it is not agreed on
		}
	}
}

func TestInflate(t *testing.T) {
	t.Parallel()
	type (
		in   = []wireFrame
		want = []wireMessage
	)
	const invalid = CloseInvalidPayload
	text := func(p string) wireMessage { return wireMessage{Text, p} }
	bin := func(p string) wireMessage { return wireMessage{Binary, p} }
	long := string(sampleText(9000, 1))
	longPacked := deflatedOnce(9, long)
	finalHello := rfcFinal[:len(rfcFinal)-1] // with nothing behind the final block
	for _, tt := range []struct {
		name     string
		in       in
		takeover bool
		want     want
		code     CloseCode
	}{
		// RFC 7692, section 7.2.3.
		{"7.2.3.1", in{wf(0xC1, rfcHello)}, false, want{text("Hello")}, 0},
		{"7.2.3.1, fragments", in{wf(0x41, rfcHello[:3]), wf(0x80, rfcHello[3:])}, false, want{text("Hello")}, 0},
		{"7.2.3.2", in{wf(0xC1, rfcHello), wf(0xC1, rfcHello)}, true, want{text("Hello"), text("Hello")}, 0},
		{"7.2.3.2, shared window", in{wf(0xC1, rfcHello), wf(0xC1, rfcShared)}, true, want{text("Hello"), text("Hello")}, 0},
		{"7.2.3.2, thrice", in{wf(0xC1, rfcHello), wf(0xC1, rfcShared), wf(0xC2, rfcShared)}, true, want{text("Hello"), text("Hello"), bin("Hello")}, 0},
		{"shared window without takeover", in{wf(0xC1, rfcHello), wf(0xC1, rfcShared)}, false, want{text("Hello")}, invalid},
		{"shared window of nothing", in{wf(0xC1, rfcShared)}, true, nil, invalid},
		{"7.2.3.3", in{wf(0xC1, rfcStored)}, false, want{text("Hello")}, 0},
		{"7.2.3.4", in{wf(0xC1, rfcFinal)}, false, want{text("Hello")}, 0},
		{"7.2.3.5", in{wf(0xC1, rfcTwoBlocks)}, false, want{text("Hello")}, 0},
		{"7.2.3.6", in{wf(0xC1, "\x00"), wf(0x42, "\x00"), wf(0x80, "")}, false, want{text(""), bin("")}, 0},

		// Messages without a payload, compressed and not.
		{"empty, fixed codes", in{wf(0xC1, "\x02\x00"), wf(0xC2, "\x03\x00\x00")}, false, want{text(""), bin("")}, 0},
		{"empty, flushed twice", in{wf(0xC1, "\x00\x00\x00\xff\xff\x00")}, false, want{text("")}, 0},
		{"empty messages between", in{wf(0xC1, rfcHello), wf(0xC1, "\x00"), wf(0x81, ""), wf(0xC1, rfcShared)}, true,
			want{text("Hello"), text(""), text(""), text("Hello")}, 0},
		{"no compressed payload", in{wf(0xC1, "")}, false, nil, invalid},
		{"no compressed payload in fragments", in{wf(0xC2, rfcHello), wf(0x42, ""), wf(0x00, ""), wf(0x80, "")}, true, want{bin("Hello")}, invalid},

		// Fragments and control frames.
		{"empty fragments", in{wf(0x41, ""), wf(0x00, ""), wf(0x00, rfcHello), wf(0x00, ""), wf(0x80, "")}, false, want{text("Hello")}, 0},
		{"a fragment for the last octet", in{wf(0x41, rfcHello[:6]), wf(0x80, rfcHello[6:])}, false, want{text("Hello")}, 0},
		{"the last octet alone", in{wf(0x41, rfcHello[:6]+"\x00\x00\x00\xff\xff"), wf(0x80, "\x00")}, false, want{text("Hello")}, 0},
		{"pongs between", in{wf(0x8A, "1"), wf(0x41, rfcHello[:3]), wf(0x8A, ""), wf(0x80, rfcHello[3:]), wf(0x8A, "2"), wf(0xC1, rfcShared)}, true,
			want{text("Hello"), text("Hello")}, 0},
		{"plain messages between", in{wf(0x81, "a"), wf(0xC1, rfcHello), wf(0x81, "b"), wf(0x02, "c"), wf(0x80, "d"), wf(0xC1, rfcShared)}, true,
			want{text("a"), text("Hello"), text("b"), bin("cd"), text("Hello")}, 0},
		{"large", in{wf(0xC1, longPacked), wf(0x41, longPacked[:100]), wf(0x80, longPacked[100:])}, false, want{text(long), text(long)}, 0},

		// Final blocks.
		{"final in the middle", in{wf(0xC1, finalHello+rfcHello)}, false, want{text("HelloHello")}, 0},
		{"final thrice", in{wf(0xC1, finalHello+finalHello+rfcFinal)}, false, want{text("HelloHelloHello")}, 0},
		{"final and stored", in{wf(0xC1, finalHello+rfcStored)}, false, want{text("HelloHello")}, 0},
		{"final in fragments", in{wf(0x41, finalHello), wf(0x00, rfcHello), wf(0x80, "\x00\x00\xff\xff"+rfcFinal)}, false, want{text("HelloHelloHello")}, 0},
		{"final, then a message", in{wf(0xC1, rfcFinal), wf(0xC1, rfcHello)}, true, want{text("Hello"), text("Hello")}, 0},
		// No more is needed to tell what it says, and there are senders that forget the rest.
		{"final and nothing behind it", in{wf(0xC1, finalHello), wf(0xC1, rfcHello)}, true, want{text("Hello"), text("Hello")}, 0},
		{"final and nothing in the last fragment", in{wf(0x41, finalHello), wf(0x80, "")}, true, want{text("Hello")}, 0},

		// What is no compressed data.
		{"reserved type of block", in{wf(0xC1, "\x06\x00")}, false, nil, invalid},
		{"reserved type of the second block", in{wf(0xC1, rfcHello+"\x00\x00\xff\xff\x07")}, false, nil, invalid},
		{"length does not match", in{wf(0xC1, "\x00\x05\x00\xfa\xfeHello\x00")}, false, nil, invalid},
		{"text that is not compressed", in{wf(0xC1, "Hello")}, false, nil, invalid},
		{"garbage behind a final block", in{wf(0xC1, finalHello+"\xff")}, false, nil, invalid},
		{"garbage behind a message", in{wf(0xC1, rfcHello+"\x00\x00\xff\xff\xff\xff")}, false, nil, invalid},
		{"its end included", in{wf(0xC1, rfcHello+"\x00\x00\xff\xff")}, false, nil, invalid},
		{"no codes", in{wf(0xC1, "\x04\x00\x00\x00\x00\x00\x00\x00")}, false, nil, invalid},

		// UTF-8 is that of the whole inflated message.
		{"a rune in two fragments", in{wf(0x41, deflatedOnce(1, "a\xe2\x82")+"\x00\x00\xff\xff"), wf(0x80, deflatedOnce(1, "\xac"))}, false, want{text("a€")}, 0},
		{"a rune in two streams", in{wf(0xC1, storedFinal("\xf0\x9f")[:7]+storedFinal("\x98\x80"))}, false, want{text("😀")}, 0},
		{"compressed bytes are not text", in{wf(0x41, rfcHello[:1]), wf(0x80, rfcHello[1:])}, false, want{text("Hello")}, 0},
		{"bad UTF-8", in{wf(0xC1, rfcHello), wf(0xC1, deflatedOnce(9, "a\xffb"))}, true, want{text("Hello")}, invalid},
		{"bad UTF-8 in binary", in{wf(0xC2, deflatedOnce(9, "a\xffb"))}, false, want{bin("a\xffb")}, 0},
		{"half a rune at the end", in{wf(0xC1, deflatedOnce(9, "a\xe2\x82"))}, false, nil, invalid},
		{"half a rune does not reach the next message", in{wf(0xC2, deflatedOnce(9, "\xe2\x82")), wf(0xC1, deflatedOnce(9, "a"))}, false, want{bin("\xe2\x82"), text("a")}, 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			checkPacked(t, tt.in, nil, tt.takeover, tt.want, tt.code, true)
		})
	}
}

// inflateSamples are messages of several kinds, none of which refers to another.
var inflateSamples = []struct{ name, packed, plain string }{
	{"fixed", rfcHello, "Hello"},
	{"stored", rfcStored, "Hello"},
	{"final", rfcFinal, "Hello"},
	{"two blocks", rfcTwoBlocks, "Hello"},
	{"final, stored", storedFinal("0123456789abcdef"), "0123456789abcdef"},
	{"dynamic", deflatedOnce(9, string(sampleText(700, 7))), string(sampleText(700, 7))},
	{"Huffman only", deflatedOnce(flate.HuffmanOnly, string(sampleText(150, 8))), string(sampleText(150, 8))},
	{"not compressed", deflatedOnce(0, "not compressed: é"), "not compressed: é"},
}

// Fragments and truncations at every byte.
func TestInflateCut(t *testing.T) {
	t.Parallel()
	for _, s := range inflateSamples {
		t.Run(s.name, func(t *testing.T) {
			for n := range len(s.packed) {
				part := s.packed[:n]
				checkPacked(t, []wireFrame{wf(0x41, part), wf(0x80, s.packed[n:])}, nil, true, []wireMessage{{Text, s.plain}}, 0, false)
				// A part may be valid: a stored block can end with what is appended, and a
				// final one needs nothing.
				if p, ok := inflateAs(part, nil); ok {
					if !strings.HasPrefix(s.plain, strings.TrimSuffix(string(p), syncMarker)) {
						t.Errorf("%d bytes of %q are %q", n, s.packed, p)
					}
					checkPacked(t, []wireFrame{wf(0xC2, part)}, nil, true, []wireMessage{{Binary, string(p)}}, 0, false)
					continue
				}
				checkPacked(t, []wireFrame{wf(0xC2, part)}, nil, true, nil, CloseInvalidPayload, false)
				checkPacked(t, []wireFrame{wf(0x42, part), wf(0x80, "")}, nil, true, nil, CloseInvalidPayload, false)
			}
		})
	}
}

// A message refers to those before it, up to 32 KiB back, whether these have been read,
// skipped or read in part.
func TestInflateTakeover(t *testing.T) {
	t.Parallel()
	for _, client := range []bool{false, true} {
		for _, size := range []int{30, 3000, 50000} {
			peer := newPeerDeflater(6)
			var wire []byte
			var want []string
			for i := range 14 {
				m := string(sampleText(size+i, uint64(i/2)))
				want = append(want, m)
				z := peer.message(m)
				cut := len(z) * i / 14
				for _, f := range []wireFrame{wf(0x41, z[:cut]), wf(0x8A, ""), wf(0x80, z[cut:]), wf(0x81, "plain")} {
					wire = f.append(wire, !client, false)
				}
			}
			for skip := range 6 {
				c := packedConn(wireStream{bytes.NewReader(bytes.Clone(wire)), new(tape)}, nil, client, true)
				for i, m := range want {
					n := min(len(m), []int{-1, 0, 1, 20, 5000, len(m)}[(skip+i)%6])
					if n < 0 || i == len(want)-1 {
						if typ, p, err := c.ReadMessage(); typ != Text || string(p) != m || err != nil {
							t.Fatalf("client %t, size %d, message %d: read %d bytes, %v", client, size, i, len(p), err)
						}
					} else {
						_, r, err := c.NextReader()
						if err != nil {
							t.Fatal(err)
						}
						p := make([]byte, n)
						if _, err := io.ReadFull(r, p); err != nil || string(p) != m[:n] {
							t.Fatalf("client %t, size %d, message %d: read %q, %v", client, size, i, p, err)
						}
					}
					if i%3 > 0 {
						if _, p, err := c.ReadMessage(); string(p) != "plain" || err != nil {
							t.Fatalf("client %t, size %d, behind message %d: %q, %v", client, size, i, p, err)
						}
					} else if _, _, err := c.NextReader(); err != nil {
						t.Fatal(err)
					}
				}
			}
		}
	}
}

// A text that is read in pieces fails with its first bad byte, and the rest does not have to
// come.
func TestInflateEarly(t *testing.T) {
	for _, way := range packedReads {
		if !strings.Contains(way.name, "Read,") && !strings.HasPrefix(way.name, "NextReader") {
			continue
		}
		for _, bad := range []string{"a\xff", "\xe2\x82a", "\xc0", "\xed\xa0", strings.Repeat("x", 5000) + "\x80"} {
			t.Run(fmt.Sprintf("%s/%.5q", way.name, bad), func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					a, peer := net.Pipe()
					c := packedConn(a, nil, false, true)
					defer c.CloseNow()
					go io.Copy(io.Discard, peer)
					go peer.Write(appendFrame(nil, opText|rsv1Bit, []byte(deflatedOnce(1, bad)+syncMarker), true))
					start := time.Now()
					_, err := way.all(c)
					checkCode(t, err, CloseInvalidPayload, byFailure)
					if d := time.Since(start); d != 0 {
						t.Error("that took", d)
					}
				})
			})
		}
	}
}

// A message that becomes larger than is allowed ends the connection, with little memory and
// without a goroutine left.
func TestInflateBomb(t *testing.T) { // not parallel: it measures memory
	const limit = 1 << 20
	zeros := strings.Repeat("\x00", 16<<20)
	bomb := deflatedOnce(9, zeros)
	parts := func(s string) (frames []wireFrame) {
		for i := range 50 {
			frames = append(frames, wf(0x00, s[len(s)*i/50:len(s)*(i+1)/50]), wf(0x00, ""))
		}
		frames[0].first = 0x41
		return append(frames, wf(0x80, ""))
	}
	for _, tt := range []struct {
		name   string
		frames []wireFrame
		max    int64
	}{
		{"16 MiB", []wireFrame{wf(0xC1, bomb)}, 0},
		{"16 MiB in fragments", parts(bomb), 0},
		{"16 MiB for 1000 bytes", []wireFrame{wf(0x41, bomb[:1000]), wf(0x80, "")}, 1000},
		{"a byte too many", []wireFrame{wf(0xC2, deflatedOnce(9, zeros[:limit+1]))}, 0},
		{"a byte too many, stored", []wireFrame{wf(0xC2, deflatedOnce(0, zeros[:limit+1]))}, 0},
		{"a byte too many for one", []wireFrame{wf(0xC2, deflatedOnce(9, "ab"))}, 1},
		{"many streams", []wireFrame{wf(0xC2, strings.Repeat(storedFinal(zeros[:1000])[:1005], 1050))}, 0},
	} {
		for _, client := range []bool{false, true} {
			var wire []byte
			for _, f := range tt.frames {
				wire = f.append(wire, !client, false)
			}
			for _, way := range packedReads {
				if tt.max == 0 && strings.HasSuffix(way.name, ", small") {
					continue // which is slow
				}
				t.Run(fmt.Sprint(tt.name, "/client=", client, "/", way.name), func(t *testing.T) {
					synctest.Test(t, func(t *testing.T) { // which fails if a goroutine is left
						rw := new(tape)
						c := packedConn(wireStream{bytes.NewReader(bytes.Clone(wire)), rw}, &Options{MaxMessage: tt.max}, client, true)
						var got []wireMessage
						var err error
						used := allocated(func() { got, err = way.all(c) })
						checkCode(t, err, CloseMessageTooBig, byFailure)
						if !strings.HasPrefix(way.name, "Read,") && way.name != "Read" && got != nil {
							t.Errorf("read %q", describe(got))
						}
						// What is collected grows by doubling.
						if most := uint64(12 * cmp.Or(tt.max, limit)); used > most+1<<20 {
							t.Errorf("%d bytes were allocated", used)
						}
						sent, err := parseWire(rw.written(), client)
						if len(sent) != 1 || err != nil || !strings.HasPrefix(sent[0].p, closing(CloseMessageTooBig, "")) {
							t.Errorf("sent %+v, %v", sent, err)
						}
					})
				})
			}
		}
	}
}

// A message of as many bytes as are allowed arrives, also if it cannot be compressed.
func TestInflateLimit(t *testing.T) {
	t.Parallel()
	for _, limit := range []int{1, 2, 100, 70000, 1 << 20} {
		noise := make([]byte, limit)
		rng := rand.New(rand.NewPCG(uint64(limit), 1))
		for i := range noise {
			noise[i] = byte(rng.Uint32())
		}
		for name, plain := range map[string]string{"zeros": strings.Repeat("\x00", limit), "noise": string(noise)} {
			for _, level := range []int{0, 1, 9} {
				if limit == 1<<20 && level == 9 {
					continue // which is slow
				}
				want := []wireMessage{{Binary, plain}}
				z := deflatedOnce(level, plain)
				frames := []wireFrame{wf(0x42, z[:len(z)/2]), wf(0x80, z[len(z)/2:])}
				t.Run(fmt.Sprintf("%d/%s/%d", limit, name, level), func(t *testing.T) {
					checkLimit(t, frames, int64(limit), want)
				})
			}
		}
	}
}

func checkLimit(t *testing.T, frames []wireFrame, limit int64, want []wireMessage) {
	for _, way := range packedReads {
		if limit > 1000 && way.name != "ReadMessage" && way.name != "NextReader, large" {
			continue
		}
		var wire []byte
		for _, f := range frames {
			wire = f.append(wire, true, false)
		}
		c := packedConn(wireStream{bytes.NewReader(wire), new(tape)}, &Options{MaxMessage: limit}, false, false)
		got, err := way.all(c)
		if err != io.EOF || !sameMessages(got, want, false) {
			t.Errorf("%s: %d messages, %v", way.name, len(got), err)
		}
	}
}

// packedWire returns what a peer sends: a message in fragments with a ping within it, which
// ends at the first size bytes, and two that refer to it.
func packedWire(client bool, m string) (wire []byte, size int) {
	peer := newPeerDeflater(9)
	z := peer.message(m)
	for _, f := range []wireFrame{wf(0x41, z[:len(z)/3]), wf(0x89, "ping"), wf(0x00, z[len(z)/3:len(z)/2]), wf(0x00, ""), wf(0x00, z[len(z)/2:]), wf(0x80, "")} {
		wire = f.append(wire, !client, false)
	}
	size = len(wire)
	for range 2 {
		wire = wf(0xC1, peer.message(m)).append(wire, !client, false)
	}
	return wire, size
}

// A partReader reads one message in parts.
type partReader struct {
	c    *Conn
	r    io.Reader
	left int // bytes of the message that have not been read
}

// partReads are the ways to read in parts. Each returns what it has got that will not be
// returned again, and an error unless that was the end of the message.
var partReads = []struct {
	name string
	read func(s *partReader, last bool) ([]byte, error)
}{
	{"ReadMessage", func(s *partReader, _ bool) ([]byte, error) {
		_, p, err := s.c.ReadMessage()
		return p, err
	}},
	{"AppendMessage", func(s *partReader, _ bool) ([]byte, error) {
		_, p, err := s.c.AppendMessage(append(make([]byte, 0, 100), "dst"...))
		return bytes.TrimPrefix(p, []byte("dst")), err
	}},
	{"Read", func(s *partReader, last bool) (got []byte, err error) {
		for p := make([]byte, 5); err == nil && (!last || len(got) < s.left); {
			var n int
			n, err = s.c.Read(p)
			got = append(got, p[:n]...)
		}
		return got, err
	}},
	{"NextReader", func(s *partReader, _ bool) (got []byte, err error) {
		if s.r == nil {
			if _, s.r, err = s.c.NextReader(); err != nil {
				return nil, err
			}
		}
		return io.ReadAll(s.r)
	}},
}

// A stallingWire has so many bytes before each of its timeouts.
type stallingWire struct {
	left   []byte
	before []int
}

func (w *stallingWire) Read(p []byte) (int, error) {
	n := len(w.left)
	if len(w.before) > 0 {
		if n = w.before[0]; n == 0 {
			w.before = w.before[1:]
			return 0, os.ErrDeadlineExceeded
		}
	}
	n = copy(p, w.left[:n])
	w.left = w.left[n:]
	if len(w.before) > 0 {
		w.before[0] -= n
	}
	return n, nil
}

func (w *stallingWire) Write(p []byte) (int, error) { return len(p), nil }

// TestInflateDeadline has a deadline pass at every byte of a message and once more behind it.
// Nothing may be lost, whichever method goes on then.
func TestInflateDeadline(t *testing.T) {
	// The last of it takes more than one piece.
	m := string(sampleText(90, 3)) + strings.Repeat("é€", 1000)
	for _, client := range []bool{false, true} {
		wire, size := packedWire(client, m)
		for _, first := range partReads {
			for _, then := range partReads {
				if first.name == "NextReader" && then.name != first.name {
					continue // which would skip the rest
				}
				parts := func(cut int) [][]byte {
					second := cut + (size-cut)/2
					return [][]byte{wire[:cut], wire[cut:second], wire[second:]}
				}
				check := func(t *testing.T, c *Conn, cut int, bring func(i int)) {
					s := &partReader{c: c, left: len(m)}
					var got []byte
					for i := range parts(cut) {
						way := then
						if i == 0 {
							way = first
						}
						bring(i)
						p, err := way.read(s, i == 2)
						if i < 2 && !errors.Is(err, os.ErrDeadlineExceeded) || i == 2 && err != nil {
							t.Fatalf("cut at %d, part %d: read %.20q, %v", cut, i, p, err)
						}
						got = append(got, p...)
						s.left -= len(p)
					}
					if string(got) != m {
						t.Fatalf("cut at %d: read %d bytes, %.20q", cut, len(got), got)
					}
					_, p, err := c.ReadMessage()
					if len(p) == 0 && then.name == "Read" { // it may have left an empty rest
						_, p, err = c.ReadMessage()
					}
					if string(p) != m || err != nil {
						t.Fatalf("cut at %d: then read %d bytes, %.20q, %v", cut, len(p), p, err)
					}
					if _, r, err := c.NextReader(); err != nil {
						t.Fatal(err)
					} else if p, err := io.ReadAll(r); string(p) != m || err != nil {
						t.Fatalf("cut at %d: last read %d bytes, %.20q, %v", cut, len(p), p, err)
					}
				}
				name := fmt.Sprintf("%s/%s/client=%t", first.name, then.name, client)
				t.Run(name, func(t *testing.T) {
					step := 1
					if testing.Short() || raceEnabled {
						step = 5
					}
					for cut := 0; cut < size-1; cut += step {
						stalls := &stallingWire{bytes.Clone(bytes.Join(parts(cut), nil)), []int{cut, (size - cut) / 2}}
						c := packedConn(stalls, nil, client, true)
						check(t, c, cut, func(int) {})
						c.CloseNow()
					}
				})
				t.Run(name+"/TCP", func(t *testing.T) {
					for cut := 3; cut < size-1; cut += 67 {
						socket, peer := socketPair(t, "tcp", "127.0.0.1:0")
						c := packedConn(socket, nil, client, true)
						go io.Copy(io.Discard, peer)
						check(t, c, cut, func(i int) {
							if _, err := peer.Write(parts(cut)[i]); err != nil {
								t.Error(err)
							}
							timeout := time.Minute
							if i < 2 {
								timeout = 500 * time.Microsecond
							}
							c.SetReadDeadline(time.Now().Add(timeout))
						})
						c.CloseNow()
					}
				})
			}
		}
	}
}

// What Read has left of a message is the first message of Serve.
func TestInflateServeRest(t *testing.T) {
	t.Parallel()
	m := string(sampleText(20000, 3))
	for _, client := range []bool{false, true} {
		wire, _ := packedWire(client, m)
		for _, n := range []int{1, 4096, 4097, 20000} {
			c := packedConn(wireStream{bytes.NewReader(bytes.Clone(wire)), new(tape)}, nil, client, true)
			p := make([]byte, n)
			if _, err := io.ReadFull(c, p); err != nil || string(p) != m[:n] {
				t.Fatal(len(p), err)
			}
			var got []string
			err := c.Serve(Handler{OnMessage: func(_ *Conn, _ MessageType, p []byte) { got = append(got, string(p)) }})
			if want := []string{m[n:], m, m}; !slices.Equal(got, want) || err != io.EOF {
				t.Errorf("client %t, %d bytes read: served %d messages, %v", client, n, len(got), err)
			}
		}
	}
}

// A connection that ends while a message is being read in pieces leaves no goroutine; the
// bubble would not end.
func TestInflateClose(t *testing.T) {
	m := string(sampleText(20000, 3))
	ends := []struct {
		name string
		end  func(c *Conn, peer net.Conn)
	}{
		{"Close", func(c *Conn, _ net.Conn) { c.Close() }},
		{"CloseWith", func(c *Conn, _ net.Conn) { c.CloseWith(4000, "") }},
		{"CloseNow", func(c *Conn, _ net.Conn) { c.CloseNow() }},
		{"abort", func(c *Conn, _ net.Conn) { c.abort(errBroken) }},
		{"end of the transport", func(c *Conn, peer net.Conn) { peer.Close() }},
		{"a close frame", func(c *Conn, peer net.Conn) { peer.Write(toward(c, opClose, closing(CloseGoingAway, ""))) }},
		{"a broken rule", func(c *Conn, peer net.Conn) { peer.Write(toward(c, 3, "")) }},
		{"a broken block", func(c *Conn, peer net.Conn) { peer.Write(toward(c, opContinuation, "\xff\xff")) }},
	}
	z := deflatedOnce(9, m)
	for _, client := range []bool{false, true} {
		for _, by := range []string{"Read", "NextReader"} {
			for _, whole := range []bool{false, true} {
				for _, blocked := range []bool{false, true} {
					for _, how := range ends {
						if whole && blocked {
							continue
						}
						name := fmt.Sprintf("%s/%s/whole=%t/blocked=%t/client=%t", how.name, by, whole, blocked, client)
						t.Run(name, func(t *testing.T) {
							synctest.Test(t, func(t *testing.T) {
								a, peer := net.Pipe()
								c := packedConn(a, nil, client, true)
								defer peer.Close()
								defer c.CloseNow()
								part := wf(0x41, z+syncMarker).append(nil, !client, false)
								if whole {
									part = wf(0xC1, z).append(nil, !client, false)
								}
								go io.Copy(io.Discard, peer)
								written := goErr(func() error { _, err := peer.Write(part); return err })
								var r io.Reader = c
								if by == "NextReader" {
									var err error
									if _, r, err = c.NextReader(); err != nil {
										t.Fatal(err)
									}
								}
								p := make([]byte, 10)
								if _, err := io.ReadFull(r, p); err != nil || string(p) != m[:10] {
									t.Fatal(p, err)
								}
								if c.deflate.reading == nil {
									t.Fatal("nothing is being read")
								}
								if blocked {
									read := goErr(func() error { _, err := io.Copy(io.Discard, onlyReader{r}); return err })
									synctest.Wait()
									how.end(c, peer)
									wait(t, read)
								} else {
									ended := make(chan struct{})
									go func() {
										how.end(c, peer)
										close(ended)
									}()
									synctest.Wait()
									_, err := io.Copy(io.Discard, onlyReader{r})
									if !whole && err == nil && by != "Read" {
										t.Error("the message ended")
									}
									c.ReadMessage()
									c.CloseNow()
									peer.Close()
									wait(t, ended)
								}
								if _, _, err := c.ReadMessage(); err == nil {
									t.Error("a message came")
								}
								c.CloseNow()
								peer.Close()
								wait(t, written)
								c.mu.Lock()
								if c.deflate.reading != nil {
									t.Error("something is still being read")
								}
								c.mu.Unlock()
							})
						})
					}
				}
			}
		}
	}
}

// onlyReader hides all other methods.
type onlyReader struct{ io.Reader }

// TestInflateCloseRace closes while another goroutine reads.
func TestInflateCloseRace(t *testing.T) {
	m := string(sampleText(30000, 3))
	wire, size := packedWire(false, m)
	for i := range 40 {
		a, peer := net.Pipe()
		c := packedConn(a, nil, false, true)
		go io.Copy(io.Discard, peer)
		go func() {
			peer.Write(wire[:size/2])
			peer.Write(wire[size/2:])
		}()
		begun := make(chan struct{})
		read := goErr(func() error {
			_, r, err := c.NextReader()
			for n := 0; err == nil; n++ {
				if n == 7*i {
					close(begun)
				}
				_, err = r.Read(make([]byte, 100))
			}
			return err
		})
		<-begun
		c.CloseNow()
		if err := wait(t, read); err != io.EOF && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		peer.Close()
	}
}

// FuzzInflate has all ways of reading agree with inflateAs.
func FuzzInflate(f *testing.F) {
	for flags := range byte(16) {
		for i, s := range inflateSamples {
			f.Add(flags, uint64(i), []byte(s.packed))
			f.Add(flags|16, uint64(i), []byte(s.packed+s.packed))
		}
		f.Add(flags, uint64(1), []byte(rfcHello+rfcShared))
		f.Add(flags, uint64(2), []byte(deflatedOnce(9, strings.Repeat("\x00", 9000))))
		f.Add(flags, uint64(3), []byte(storedFinal(strings.Repeat("é", 99))[:190]))
	}
	f.Fuzz(func(t *testing.T, flags byte, seed uint64, data []byte) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		client, takeover, typ := flags&1 != 0, flags&2 != 0, Text
		if flags&4 != 0 {
			typ = Binary
		}
		limit := []int{1 << 16, 100}[flags>>3&1]

		var wire, history []byte
		var want []wireMessage
		good, tooBig := true, false // all until now, and one of the bad
		for n := range 1 + int(flags>>4&3) {
			z := data
			if n < int(flags>>4&3) {
				z = data[:rnd.IntN(len(data)+1)]
			}
			data = data[len(z):]
			if good {
				p, ok := inflateAs(string(z), history)
				good = ok && len(p) <= limit && len(z) <= limit && (typ == Binary || utf8.Valid(p))
				tooBig = len(z) > limit || !ok || len(p) > limit
				if good {
					want = append(want, wireMessage{typ, string(p)})
				}
				if takeover {
					history = append(history, p...)
					history = history[max(0, len(history)-32<<10):]
				}
			}
			first := byte(typ) | rsv1Bit
			for rnd.IntN(3) > 0 {
				cut := rnd.IntN(len(z) + 1)
				wire = wf(first, string(z[:cut])).append(wire, !client, false)
				z, first = z[cut:], 0
			}
			wire = wf(first|finBit, string(z)).append(wire, !client, false)
		}
		for i, way := range packedReads {
			in := wireChunks[(int(seed%8)+i)%len(wireChunks)].of(bytes.NewReader(bytes.Clone(wire)))
			c := packedConn(wireStream{in, new(tape)}, &Options{MaxMessage: int64(limit)}, client, takeover)
			got, err := way.all(c)
			e, failed := errors.AsType[*CloseError](err)
			switch {
			case !sameMessages(got, want, !good):
				t.Fatalf("%s: %q, %v, want %q", way.name, describe(got), err, describe(want))
			case good && err != io.EOF:
				t.Fatalf("%s: %v", way.name, err)
			case !good && (!failed || e.Code != CloseInvalidPayload && !(e.Code == CloseMessageTooBig && tooBig)):
				t.Fatalf("%s: %v, too big %t", way.name, err, tooBig)
			case len(got) == 1 && got[0].typ == 0 && len(got[0].p) > (len(want)+1)*limit:
				t.Fatalf("%s: %d bytes", way.name, len(got[0].p))
			}
		}
	})
}

// FuzzDeflate sends messages both ways between sides that have agreed on something.
func FuzzDeflate(f *testing.F) {
	for i := range byte(24) {
		f.Add(i*11, i*7, i, uint64(i), sampleText(20*int(i)*int(i), uint64(i)))
	}
	f.Add(byte(0xFF), byte(3), byte(0), uint64(9), bytes.Repeat([]byte("\x00\xff"), 40000))
	f.Fuzz(func(t *testing.T, flags, bits, level byte, seed uint64, data []byte) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		options := func(takeover bool, bits byte) *Options {
			d := &Deflate{ContextTakeover: takeover, Level: int(level%12) - 2, WindowBits: int(bits%9) + 7}
			if d.WindowBits == 7 {
				d.WindowBits = 0
			}
			if flags&4 != 0 {
				d.Threshold = -1
			}
			return &Options{Deflate: d, MaxMessage: 4 << 20}
		}
		server, client := deflatePair(t, options(flags&1 != 0, bits), options(flags&2 != 0, bits/9))
		defer client.CloseNow()
		defer server.CloseNow()
		for _, ends := range [][2]*Conn{{server, client}, {client, server}} {
			from, to := ends[0], ends[1]
			rest := data
			for i := range 1 + int(flags>>3&7) {
				p := rest[:rnd.IntN(len(rest)+1)]
				if i%2 > 0 {
					rest = rest[len(p):] // else the next is like this one
				}
				pieces := rnd.IntN(4)
				written := goErr(func() error {
					if pieces == 0 {
						return from.WriteMessage(Binary, p)
					}
					w, err := from.NextWriter(Binary)
					p := p
					for n := pieces; n > 0 && err == nil; n-- {
						_, err = w.Write(p[:len(p)/n])
						p = p[len(p)/n:]
					}
					return cmp.Or(err, w.Close())
				})
				var got []byte
				var err error
				switch rnd.IntN(4) {
				case 0:
					_, got, err = to.ReadMessage()
				case 1:
					_, got, err = to.AppendMessage(make([]byte, 0, rnd.IntN(len(p)+1)))
				case 2:
					var r io.Reader
					if _, r, err = to.NextReader(); err == nil {
						got, err = io.ReadAll(r)
					}
				case 3: // only a part
					if _, _, err = to.NextReader(); err == nil {
						go from.WriteMessage(Binary, []byte("x"))
						if _, x, err := to.ReadMessage(); string(x) != "x" || err != nil {
							t.Fatalf("%q: read %.20q, %v", to.Request().Extensions, x, err)
						}
						got = p
					}
				}
				if err != nil || !bytes.Equal(got, p) {
					t.Fatalf("%q: read %d bytes instead of %d, %v", to.Request().Extensions, len(got), len(p), err)
				}
				if err := <-written; err != nil {
					t.Fatal(err)
				}
			}
		}
	})
}

// A streamParser inflates a stream of DEFLATE (RFC 1951) by the letter, one bit at a time.
type streamParser struct {
	in   []byte
	bits int    // of in that have been read
	out  []byte // begins with what is known from before
	far  int    // the largest distance
}

func (s *streamParser) take(n int) (v int) {
	for i := range n {
		if s.bits/8 >= len(s.in) {
			panic("the stream is cut short")
		}
		v |= int(s.in[s.bits/8]) >> (s.bits % 8) & 1 << i
		s.bits++
	}
	return v
}

// A prefixCode is a canonical Huffman code: how many codes there are of every length, and
// the symbols in their order.
type prefixCode struct {
	count   [16]int
	symbols []int
}

func newPrefixCode(lengths []int) (c prefixCode) {
	for n := range c.count {
		for symbol, length := range lengths {
			if length == n && n > 0 {
				c.count[n]++
				c.symbols = append(c.symbols, symbol)
			}
		}
	}
	return c
}

func (s *streamParser) symbol(c *prefixCode) int {
	code, first, index := 0, 0, 0
	for _, count := range c.count[1:] {
		code |= s.take(1)
		if code-first < count {
			return c.symbols[index+code-first]
		}
		index += count
		first = (first + count) << 1
		code <<= 1
	}
	panic("no such code")
}

var fixedCodes = sync.OnceValue(func() [2]prefixCode {
	lengths := slices.Concat(slices.Repeat([]int{8}, 144), slices.Repeat([]int{9}, 112), slices.Repeat([]int{7}, 24), slices.Repeat([]int{8}, 8))
	return [2]prefixCode{newPrefixCode(lengths), newPrefixCode(slices.Repeat([]int{5}, 30))}
})

// codes reads the codes of a dynamic block (RFC 1951, section 3.2.7).
func (s *streamParser) codes() [2]prefixCode {
	literals, distances, n := 257+s.take(5), 1+s.take(5), 4+s.take(4)
	var lengths [19]int
	for _, i := range []int{16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15}[:n] {
		lengths[i] = s.take(3)
	}
	code := newPrefixCode(lengths[:])
	var all []int
	for len(all) < literals+distances {
		switch symbol := s.symbol(&code); symbol {
		case 16:
			all = append(all, slices.Repeat(all[len(all)-1:], 3+s.take(2))...)
		case 17:
			all = append(all, make([]int, 3+s.take(3))...)
		case 18:
			all = append(all, make([]int, 11+s.take(7))...)
		default:
			all = append(all, symbol)
		}
	}
	return [2]prefixCode{newPrefixCode(all[:literals]), newPrefixCode(all[literals:])}
}

// block reads a block and reports whether it is the last one.
func (s *streamParser) block() bool {
	last := s.take(1) == 1
	var codes [2]prefixCode
	switch kind := s.take(2); kind {
	case 0:
		s.bits = (s.bits + 7) &^ 7
		n := s.take(16)
		if s.take(16) != n^0xFFFF {
			panic("the length of a stored block is wrong")
		}
		s.out = append(s.out, s.in[s.bits/8:][:n]...)
		s.bits += 8 * n
		return last
	case 1:
		codes = fixedCodes()
	case 2:
		codes = s.codes()
	default:
		panic("no such kind of block")
	}
	for {
		symbol := s.symbol(&codes[0])
		if symbol < 256 {
			s.out = append(s.out, byte(symbol))
			continue
		}
		if symbol == 256 {
			return last
		}
		// RFC 1951, section 3.2.5.
		length := 258
		if symbol < 285 {
			length = symbol - 257
			if bits := max(0, length/4-1); bits > 0 {
				length = (4+length%4)<<bits + s.take(bits)
			}
			length += 3
		}
		distance := s.symbol(&codes[1])
		if bits := max(0, distance/2-1); bits > 0 {
			distance = (2+distance%2)<<bits + s.take(bits)
		}
		distance++
		if distance > len(s.out) {
			panic(fmt.Sprintf("a distance of %d where %d bytes are known", distance, len(s.out)))
		}
		s.far = max(s.far, distance)
		for range length {
			s.out = append(s.out, s.out[len(s.out)-distance])
		}
	}
}

// parseDeflated inflates the payload of a compressed message for a receiver that knows
// history. It also returns the largest distance.
func parseDeflated(payload string, history []byte) (p []byte, far int, err error) {
	s := &streamParser{in: []byte(payload + syncMarker), out: slices.Clone(history)}
	defer func() {
		if v := recover(); v != nil {
			err = fmt.Errorf("after %d of %d bytes: %v", s.bits/8, len(payload), v)
		}
	}()
	for s.bits < 8*len(s.in) {
		if s.block() {
			return nil, 0, errors.New("a last block")
		}
	}
	return s.out[len(history):], s.far, nil
}

// A wireTap keeps what is written to a transport.
type wireTap struct {
	net.Conn
	mu sync.Mutex
	b  []byte
}

func (w *wireTap) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.b = append(w.b, p...)
	w.mu.Unlock()
	return w.Conn.Write(p)
}

// frames returns the frames written since the last call.
func (w *wireTap) frames(t testing.TB, masked bool) []wireFrame {
	t.Helper()
	w.mu.Lock()
	defer w.mu.Unlock()
	all, err := parseWire(w.b, masked)
	if err != nil {
		t.Fatal(err)
	}
	w.b = nil
	return all
}

// An end is one side of a connection whose writes are kept, with what its peer knows.
type end struct {
	*Conn
	tap      *wireTap
	takeover bool
	bits     int
	known    []byte // of the compressed messages sent so far
	plain    int    // messages that were not compressed
	far      int    // the largest distance
}

// openTapped shakes hands over a pair of transports. With a response, the server sends that in
// Sec-WebSocket-Extensions.
func openTapped(t testing.TB, a, b net.Conn, so, co *Options, response string) (server, client *end) {
	t.Helper()
	server, client = &end{tap: &wireTap{Conn: a}}, &end{tap: &wireTap{Conn: b}}
	server.Conn = NewConn(server.tap, so)
	res := goErr(func() error {
		req, err := GetRequest(server.Conn)
		if err != nil {
			return err
		}
		if response != "" {
			req.Extensions = response
		}
		return PutResponse(server.Conn, req)
	})
	var err error
	if client.Conn, err = ClientHandshake(client.tap, "ws://server.example.com/", co); err != nil {
		t.Fatal(err)
	}
	if err := wait(t, res); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { server.CloseNow(); client.CloseNow() })
	for _, e := range []*end{server, client} {
		e.tap.b = nil
		e.takeover, e.bits = true, 15
	}
	agreed := client.Request().Extensions
	for who, e := range map[string]*end{"server": server, "client": client} {
		e.takeover = !strings.Contains(agreed, who+"_no_context_takeover")
		if m := regexp.MustCompile(who + `_max_window_bits=(\d+)`).FindStringSubmatch(agreed); m != nil {
			e.bits, _ = strconv.Atoi(m[1])
		}
	}
	return server, client
}

func tappedPipe(t testing.TB, so, co *Options, response string) (server, client *end) {
	t.Helper()
	a, b := net.Pipe()
	return openTapped(t, a, b, so, co, response)
}

// checkSent checks the frames of the message p that e has just written. writer tells that it
// came from NextWriter.
func (e *end) checkSent(t testing.TB, typ MessageType, p []byte, writer bool) (compressed bool) {
	t.Helper()
	frames := e.tap.frames(t, e.client)
	if len(frames) == 0 || !writer && len(frames) != 1 {
		t.Fatalf("a message in %d frames", len(frames))
	}
	compressed = frames[0].first&rsv1Bit != 0
	var payload strings.Builder
	for i, f := range frames {
		first := byte(0)
		if i == 0 {
			first = byte(typ)
			if compressed {
				first |= rsv1Bit
			}
		}
		if i == len(frames)-1 {
			first |= finBit
		}
		if f.first != first {
			t.Fatalf("frame %d of %d begins with %#x, want %#x", i, len(frames), f.first, first)
		}
		payload.WriteString(f.p)
	}
	if !compressed {
		e.plain++
		if writer || payload.String() != string(p) {
			t.Fatal("a message from NextWriter is not compressed, or one that is not compressed is wrong")
		}
		return false
	}
	if !writer && payload.Len() >= len(p) {
		t.Fatalf("%d bytes were compressed to %d", len(p), payload.Len())
	}
	got, far, err := parseDeflated(payload.String(), e.known)
	switch {
	case err != nil:
		t.Fatal(err)
	case !bytes.Equal(got, p):
		t.Fatalf("the message on the wire is another one, of %d bytes instead of %d", len(got), len(p))
	case far > 1<<e.bits:
		t.Fatalf("a distance of %d with %d window bits", far, e.bits)
	}
	e.far = max(e.far, far)
	if e.takeover {
		e.known = append(e.known, p...)
		e.known = bytes.Clone(e.known[max(0, len(e.known)-1<<e.bits):])
	}
	return true
}

// Ways to write a message.
var deflateWriters = []func(c *Conn, t MessageType, p []byte) error{
	(*Conn).WriteMessage,
	writeCut(1 << 20),
	writeCut(4001),
	writeCut(100, 0, 7, 2000, 0, 30000),
	writeCut(0, 1<<18),
}

// writeCut writes a message with NextWriter, in pieces of these sizes in turn.
func writeCut(sizes ...int) func(c *Conn, t MessageType, p []byte) error {
	return func(c *Conn, t MessageType, p []byte) error {
		w, err := c.NextWriter(t)
		for i := 0; len(p) > 0 && err == nil; i++ {
			n := min(len(p), sizes[i%len(sizes)])
			_, err = w.Write(p[:n])
			p = p[n:]
		}
		if err != nil {
			return err
		}
		return w.Close()
	}
}

// Ways to read one.
var deflateReaders = []func(c *Conn) (MessageType, []byte, error){
	(*Conn).ReadMessage,
	func(c *Conn) (MessageType, []byte, error) { return c.AppendMessage(make([]byte, 0, 100)) },
	func(c *Conn) (MessageType, []byte, error) {
		t, r, err := c.NextReader()
		if err != nil {
			return 0, nil, err
		}
		p, err := io.ReadAll(r)
		return t, p, err
	},
}

// deflateKinds make payloads, all of them text, of n bytes.
var deflateKinds = []func(n int, seed uint64) []byte{
	sampleText,
	func(n int, seed uint64) []byte { // can be compressed by a tenth, or not at all where it is short
		p, r := make([]byte, n), rand.New(rand.NewPCG(seed, 2))
		for i := range p {
			p[i] = byte(r.IntN(128))
		}
		return p
	},
	func(n int, seed uint64) []byte { // repeats itself from far away
		return bytes.Repeat(sampleText(3000, seed), n/3000+1)[:n]
	},
	func(n int, _ uint64) []byte { return make([]byte, n) },
}

// pairwise returns rows of one number below each size, so that any two values of two columns
// stand together in some row.
func pairwise(sizes []int) (rows [][]int) {
	type pair struct{ i, v, j, w int }
	open := map[pair]bool{}
	var order []pair
	for i := range sizes {
		for j := range i {
			for v := range sizes[i] {
				for w := range sizes[j] {
					order = append(order, pair{i, v, j, w})
					open[pair{i, v, j, w}] = true
				}
			}
		}
	}
	r := rand.New(rand.NewPCG(1, 1))
	r.Shuffle(len(order), func(i, j int) { order[i], order[j] = order[j], order[i] })
	for _, p := range order {
		if !open[p] {
			continue
		}
		row := slices.Repeat([]int{-1}, len(sizes))
		row[p.i], row[p.j] = p.v, p.w
		gain := func(i, v int) (n int) {
			for j, w := range row {
				if j != i && w >= 0 && (open[pair{i, v, j, w}] || open[pair{j, w, i, v}]) {
					n++
				}
			}
			return n
		}
		for _, i := range r.Perm(len(sizes)) {
			if row[i] >= 0 {
				continue
			}
			best, most := 0, -1
			for _, v := range r.Perm(sizes[i]) {
				if n := gain(i, v); n > most {
					best, most = v, n
				}
			}
			row[i] = best
		}
		for i, v := range row {
			for j, w := range row {
				delete(open, pair{i, v, j, w})
			}
		}
		rows = append(rows, row)
	}
	return rows
}

// TestDeflateRoundTrip covers all pairs of what can be chosen: options of both sides, who
// writes, how, how it is read, and what. Every connection carries some messages more, so that
// there is a context to take over.
func TestDeflateRoundTrip(t *testing.T) {
	windows := []int{0, 8, 9, 10, 11, 12, 13, 14, 15}
	sizes := []int{0, 1, 127, 128, 600, 5000, 20000, 70000, 1 << 20}
	if raceEnabled || testing.Short() {
		sizes[len(sizes)-1] = 150000
	}
	const (
		level = iota
		serverTakeover
		clientTakeover
		serverBits
		clientBits
		role
		writer
		reader
		kind
		size
		columns
	)
	values := make([]int, columns)
	values[level] = 12
	values[serverTakeover], values[clientTakeover], values[role] = 2, 2, 2
	values[serverBits], values[clientBits] = len(windows), len(windows)
	values[writer], values[reader] = len(deflateWriters), len(deflateReaders)
	values[kind], values[size] = len(deflateKinds), len(sizes)
	for _, row := range pairwise(values) {
		options := func(takeover, bits int) *Options {
			return &Options{Deflate: &Deflate{
				Level: row[level] - 2, Threshold: -1, ContextTakeover: row[takeover] == 1, WindowBits: windows[row[bits]],
			}}
		}
		so, co := options(serverTakeover, serverBits), options(clientTakeover, clientBits)
		from, to := tappedPipe(t, so, co, "")
		if row[role] == 1 {
			from, to = to, from
		}
		for i, n := range []int{300, sizes[row[size]], min(1000, sizes[row[size]]), 0, 300} {
			p := deflateKinds[row[kind]](n, uint64(i%2))
			typ := []MessageType{Text, Binary}[i%2]
			w := (row[writer] + i/2) % len(deflateWriters)
			if i == 1 {
				w = row[writer]
			}
			done := goErr(func() error { return deflateWriters[w](from.Conn, typ, p) })
			gotType, got, err := deflateReaders[(row[reader]+i+2)%len(deflateReaders)](to.Conn)
			if err != nil || gotType != typ || !bytes.Equal(got, p) {
				t.Fatalf("row %d, message %d: type %v, %d bytes instead of %d, %v", row, i, gotType, len(got), n, err)
			}
			if err := wait(t, done); err != nil {
				t.Fatalf("row %d, message %d: %v", row, i, err)
			}
			from.checkSent(t, typ, p, w != 0)
			if t.Failed() {
				t.Fatalf("row %d, message %d", row, i)
			}
		}
		from.CloseNow()
		to.CloseNow()
	}
}

// TestDeflateDistance checks that a window is used as far as it can be.
func TestDeflateDistance(t *testing.T) {
	for bits := 8; bits <= 15; bits++ {
		o := &Options{Deflate: &Deflate{WindowBits: bits, Level: 6}}
		server, client := tappedPipe(t, o, o, "")
		distance := 5 << bits / 8
		p := bytes.Repeat(deflateKinds[1](distance, 1), 4)
		done := goErr(func() error { return client.WriteMessage(Text, p) })
		if _, _, err := server.ReadMessage(); err != nil {
			t.Fatal(err)
		}
		if err := wait(t, done); err != nil {
			t.Fatal(err)
		}
		if client.checkSent(t, Text, p, false); client.far != distance {
			t.Errorf("%d window bits: largest distance %d, want %d", bits, client.far, distance)
		}
	}
}

// TestDeflateWindows has each side send with the window and the takeover that a response
// gives it.
func TestDeflateWindows(t *testing.T) {
	const name = "permessage-deflate"
	for _, tt := range []struct {
		server, client Deflate
		response       string // the server's own, if empty
		agreed         string
	}{
		{Deflate{WindowBits: 15}, Deflate{WindowBits: 9}, "", name + "; server_no_context_takeover; client_no_context_takeover; server_max_window_bits=9; client_max_window_bits=9"},
		{Deflate{WindowBits: 10, ContextTakeover: true}, Deflate{ContextTakeover: true}, "", name + "; server_max_window_bits=10; client_max_window_bits=10"},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true}, "", name},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true}, name + "; server_max_window_bits=9; client_max_window_bits=8", ""},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true}, name + "; server_max_window_bits=8; client_max_window_bits=15", ""},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true}, name + "; client_max_window_bits=9", ""},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true}, name + "; server_no_context_takeover; client_max_window_bits=12", ""},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true}, name + "; client_no_context_takeover; server_max_window_bits=12", ""},
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true, WindowBits: 11}, name + "; server_max_window_bits=9; client_max_window_bits=10", ""},
		// A server may say nothing about the client's window; then it has 15 bits, but the
		// client keeps to its own limit.
		{Deflate{ContextTakeover: true}, Deflate{ContextTakeover: true, WindowBits: 11}, name + "; server_max_window_bits=9", ""},
	} {
		response := tt.response
		if response == "" {
			response = tt.agreed
		}
		t.Run(strings.TrimPrefix(response, name), func(t *testing.T) {
			tt.server.Threshold, tt.client.Threshold = -1, -1
			server, client := tappedPipe(t, &Options{Deflate: &tt.server}, &Options{Deflate: &tt.client}, tt.response)
			if got := server.Request().Extensions; got != response || client.Request().Extensions != got {
				t.Fatalf("agreed on %q and %q, want %q", got, client.Request().Extensions, response)
			}
			if bits := tt.client.WindowBits; bits != 0 {
				client.bits = min(client.bits, bits)
			}
			for _, pair := range [][2]*end{{server, client}, {client, server}} {
				from, to := pair[0], pair[1]
				far := 0
				for i := range 12 {
					p := deflateKinds[2](2000*i, 1)
					w := i % 2
					done := goErr(func() error { return deflateWriters[w](from.Conn, Text, p) })
					if _, got, err := to.ReadMessage(); err != nil || !bytes.Equal(got, p) {
						t.Fatalf("message %d: %d bytes instead of %d, %v", i, len(got), len(p), err)
					}
					if err := wait(t, done); err != nil {
						t.Fatal(err)
					}
					from.checkSent(t, Text, p, w == 1)
					far = max(far, from.far)
				}
				if far < min(2000, 1<<from.bits/2) {
					t.Errorf("no distance is larger than %d with %d window bits", far, from.bits)
				}
			}
		})
	}
}

// TestDeflateTakeover checks that equal messages become much shorter with takeover, and that
// they do not without it.
func TestDeflateTakeover(t *testing.T) {
	for _, takeover := range []bool{false, true} {
		for _, bits := range []int{0, 12} {
			o := &Options{Deflate: &Deflate{ContextTakeover: takeover, WindowBits: bits}}
			server, client := tappedPipe(t, o, o, "")
			for _, pair := range [][2]*end{{server, client}, {client, server}} {
				from, to := pair[0], pair[1]
				p := sampleText(600, 1)
				var lengths []int
				for i := range 3 {
					done := goErr(func() error { return from.WriteMessage(Text, p) })
					if _, got, err := to.ReadMessage(); err != nil || !bytes.Equal(got, p) {
						t.Fatal(i, err)
					}
					if err := wait(t, done); err != nil {
						t.Fatal(err)
					}
					from.tap.mu.Lock()
					lengths = append(lengths, len(from.tap.b))
					from.tap.mu.Unlock()
					if !from.checkSent(t, Text, p, false) {
						t.Fatal("not compressed")
					}
				}
				if takeover && (lengths[0] < 3*lengths[1] || lengths[1] < lengths[2]) ||
					!takeover && (lengths[0] != lengths[1] || lengths[1] != lengths[2]) {
					t.Errorf("takeover %t, %d window bits: messages of %d bytes", takeover, bits, lengths)
				}
			}
		}
	}
}

// TestDeflateHistory checks that a window keeps the end of what it is given, and needs no
// more memory than it may.
func TestDeflateHistory(t *testing.T) {
	for _, size := range []int{128, 4 << 10, 32 << 10} {
		w := window{takeover: true, size: size}
		var all []byte
		for i, n := range []int{10, 0, 100, 1000, 20, 5000, 4095, 4096, 4097, 10, 20000, 32768, 1, 32767, 40000, 7} {
			p := sampleText(n, uint64(i))
			all = append(all, p...)
			w.add(p)
			if want := all[max(0, len(all)-size):]; !bytes.Equal(w.history, want) || cap(w.history) > size {
				t.Fatalf("%d bytes kept, and room for %d, want %d", len(w.history), cap(w.history), len(want))
			}
		}
	}
	w := window{size: 128}
	if w.add([]byte("x")); w.history != nil {
		t.Error("something is kept without takeover")
	}
}

func TestDeflateThreshold(t *testing.T) {
	for _, tt := range []struct {
		threshold int
		takeover  bool
		refuses   bool // the peer does not allow the takeover
		first     int  // size of the smallest message that is compressed
	}{
		{0, false, false, 512},
		{0, true, false, 128},
		{0, true, true, 512},
		{1000, false, false, 1000},
		{100, true, false, 100},
		{20, false, false, 20},
		// Shorter ones would not become shorter.
		{-1, false, false, 17},
		{math.MinInt, true, false, 17},
		{1, false, false, 17},
	} {
		for _, client := range []bool{false, true} {
			t.Run(fmt.Sprintf("%d/takeover=%t/refused=%t/client=%t", tt.threshold, tt.takeover, tt.refuses, client), func(t *testing.T) {
				o := &Options{Deflate: &Deflate{Threshold: tt.threshold, ContextTakeover: tt.takeover}}
				other := &Options{Deflate: &Deflate{ContextTakeover: tt.takeover && !tt.refuses}}
				so, co := o, other
				if client {
					so, co = other, o
				}
				from, to := tappedPipe(t, so, co, "")
				if client {
					from, to = to, from
				}
				for _, size := range []int{0, 1, tt.first - 1, tt.first, tt.first + 1, 5000, tt.first - 1} {
					p := make([]byte, size)
					done := goErr(func() error { return from.WriteMessage(Binary, p) })
					if _, got, err := to.ReadMessage(); err != nil || !bytes.Equal(got, p) {
						t.Fatal(size, err)
					}
					if err := wait(t, done); err != nil {
						t.Fatal(err)
					}
					if got, want := from.checkSent(t, Binary, p, false), size >= tt.first; got != want {
						t.Errorf("%d bytes: compressed: %t, want %t", size, got, want)
					}
				}
			})
		}
	}
}

// TestDeflateIncompressible checks that what does not become shorter is sent as it is, and is
// no part of the context.
func TestDeflateIncompressible(t *testing.T) {
	r := rand.NewChaCha8([32]byte{})
	for _, takeover := range []bool{false, true} {
		for _, level := range []int{-2, 1, 6} {
			o := &Options{Deflate: &Deflate{ContextTakeover: takeover, Level: level}}
			server, client := tappedPipe(t, o, o, "")
			for _, pair := range [][2]*end{{server, client}, {client, server}} {
				from, to := pair[0], pair[1]
				random := make([]byte, 3000)
				r.Read(random)
				for i, p := range [][]byte{sampleText(1000, 1), random, sampleText(1000, 2), random, make([]byte, 600), random[:700]} {
					done := goErr(func() error { return from.WriteMessage(Binary, p) })
					if _, got, err := to.ReadMessage(); err != nil || !bytes.Equal(got, p) {
						t.Fatal(i, err)
					}
					if err := wait(t, done); err != nil {
						t.Fatal(err)
					}
					if got, want := from.checkSent(t, Binary, p, false), i%2 == 0; got != want {
						t.Errorf("message %d: compressed: %t", i, got)
					}
				}
			}
		}
	}
}

// TestDeflateSmallWrites checks that a message that is not too large is taken in whatever
// pieces it comes, although each of them grows by the end of its block.
func TestDeflateSmallWrites(t *testing.T) {
	for _, size := range []int{1, 16, 100} {
		for _, max := range []int{1000, 100000} {
			so := &Options{Deflate: new(Deflate), MaxMessage: int64(max)}
			server, client := tappedPipe(t, so, &Options{Deflate: new(Deflate)}, "")
			p := deflateKinds[1](min(max, size*maxFragments/2), 1)
			done := goErr(func() error { return writeCut(size)(client.Conn, Text, p) })
			if _, got, err := server.ReadMessage(); err != nil || !bytes.Equal(got, p) {
				t.Fatalf("%d bytes in pieces of %d: %v", len(p), size, err)
			}
			if err := wait(t, done); err != nil {
				t.Error(err)
			}
		}
	}
	// A stream may have any number of fragments, even if they are short.
	if raceEnabled {
		return
	}
	o := &Options{Deflate: new(Deflate), MaxMessage: -1}
	server, client := deflatePair(t, o, o)
	p := sampleText(100*(maxFragments+1000), 1)
	done := goErr(func() error { return writeCut(100)(client, Text, p) })
	if _, r, err := server.NextReader(); err != nil {
		t.Fatal(err)
	} else if got, err := io.ReadAll(r); err != nil || !bytes.Equal(got, p) {
		t.Fatalf("%d of %d bytes in pieces of 100: %v", len(got), len(p), err)
	}
	if err := wait(t, done); err != nil {
		t.Error(err)
	}
}

// numbered is a message that tells who has sent it and as which one.
func numbered(source string, i, size int) []byte {
	p := fmt.Appendf(make([]byte, 0, size+100), "%s %d %d ", source, i, size)
	n := len(p)
	p = p[:n+size]
	copy(p[n:], numberedTexts()[min(size/10000, 1)][100*(i%16)+len(source):])
	return p
}

// numberedTexts returns a text that becomes much smaller and one that does not.
var numberedTexts = sync.OnceValue(func() [2][]byte {
	return [2][]byte{sampleText(20000, 1), deflateKinds[1](1<<17, 1)}
})

// An arrivals checks numbered messages: each source's have to come whole and in order.
type arrivals map[string]int

func (a arrivals) add(p []byte) error {
	var source string
	var i, size int
	if _, err := fmt.Sscan(string(p[:min(len(p), 60)]), &source, &i, &size); err != nil {
		return fmt.Errorf("%.60q: %w", p, err)
	}
	if want := numbered(source, i, size); !bytes.Equal(p, want) {
		return fmt.Errorf("message %d of %s is another one, of %d bytes instead of %d", i, source, len(p), len(want))
	}
	if i != a[source] {
		return fmt.Errorf("message %d of %s came instead of %d", i, source, a[source])
	}
	a[source]++
	return nil
}

// sendNumbered sends n messages, every third in pieces.
func sendNumbered(c *Conn, source string, n int) error {
	for i := range n {
		size := []int{10, 200, 1000, 18000, 600, 30000, 0, 80000}[(i+len(source))%8]
		write := deflateWriters[0]
		if i%3 == 2 {
			write = writeCut(1000, 25000)
		}
		if err := write(c, Text, numbered(source, i, size)); err != nil {
			return fmt.Errorf("message %d of %s: %w", i, source, err)
		}
	}
	return nil
}

// TestDeflateConcurrentWrites has many goroutines write on both sides at the same time.
func TestDeflateConcurrentWrites(t *testing.T) {
	writers, messages := 4, 14
	if raceEnabled { // every fourth compressor is a new one then, which takes long
		writers, messages = 3, 5
	}
	for _, network := range []string{"pipe", "tcp"} {
		for _, takeover := range []bool{false, true} {
			for _, bits := range []int{0, 10} {
				t.Run(fmt.Sprintf("%s/takeover=%t/bits=%d", network, takeover, bits), func(t *testing.T) {
					a, b := net.Pipe()
					if network == "tcp" {
						a, b = socketPair(t, "tcp", "127.0.0.1:0")
					}
					o := &Options{Deflate: &Deflate{ContextTakeover: takeover, WindowBits: bits}}
					server, client := openTapped(t, a, b, o, o, "")
					var done []<-chan error
					for _, e := range []*end{server, client} {
						for w := range writers {
							done = append(done, goErr(func() error { return sendNumbered(e.Conn, strings.Repeat("w", w+1), messages) }))
						}
						done = append(done, goErr(func() error {
							got := arrivals{}
							for i := range writers * messages {
								_, p, err := deflateReaders[i%len(deflateReaders)](e.Conn)
								if err == nil {
									err = got.add(p)
								}
								if err != nil {
									e.CloseNow() // lets the writers end
									return err
								}
							}
							return nil
						}))
					}
					for _, done := range done {
						if err := wait(t, done); err != nil {
							t.Error(err)
						}
					}
					if !raceEnabled { // it takes long, and has no part in a race
						checkHistory(t, takeover, server, client)
					}
				})
			}
		}
	}
}

// checkHistory parses all that the ends have sent: no message may refer to what its
// receiver does not know.
func checkHistory(t *testing.T, takeover bool, ends ...*end) {
	t.Helper()
	for _, e := range ends {
		var message []wireFrame
		compressed := 0
		for _, f := range e.tap.frames(t, e.client) {
			if f.first&0x0F >= opClose {
				continue
			}
			message = append(message, f)
			if f.first&finBit == 0 {
				continue
			}
			if message[0].first&rsv1Bit != 0 {
				var payload strings.Builder
				for _, f := range message {
					payload.WriteString(f.p)
				}
				p, far, err := parseDeflated(payload.String(), e.known)
				if err != nil || far > 1<<e.bits {
					t.Fatalf("a message in %d frames: distance %d, %v", len(message), far, err)
				}
				compressed++
				if takeover {
					e.known = append(e.known, p...)
					e.known = bytes.Clone(e.known[max(0, len(e.known)-1<<e.bits):])
				}
			}
			message = nil
		}
		if compressed == 0 {
			t.Error("nothing was compressed")
		}
	}
}

// TestDeflateServer has broadcasts go to clients of all kinds, while messages are written to
// them by others, in pieces as well, and while OnOpen runs.
func TestDeflateServer(t *testing.T) {
	messages := 10
	if raceEnabled {
		messages = 6
	}
	deflates := []*Deflate{nil, {}, {ContextTakeover: true}, {ContextTakeover: true, WindowBits: 8}, {WindowBits: 10}, {ContextTakeover: true, WindowBits: 15}}
	clients := len(deflates) + 1
	opening := make(chan *Conn, clients)
	open := make(chan struct{})
	s := &Server{
		Options: Options{Deflate: &Deflate{ContextTakeover: true}, MaxQueue: 64 << 20},
		Handler: Handler{
			OnOpen: func(c *Conn) {
				err := sendNumbered(c, "early", messages/2)
				opening <- c
				<-open
				if err == nil {
					err = sendNumbered(c, "opening", messages/2)
				}
				if err != nil {
					t.Error(err)
				}
			},
			OnMessage: func(c *Conn, typ MessageType, p []byte) { c.WriteMessage(typ, p) },
		},
	}
	piped := servePiped(t, s)
	var done []<-chan error
	for i := range clients {
		var c *Conn
		if i < len(deflates) {
			c = piped.join(t, "/", &Options{Deflate: deflates[i]})
			if (c.Request().Extensions == "") != (deflates[i] == nil) {
				t.Fatalf("client %d: %q agreed on", i, c.Request().Extensions)
			}
		} else {
			c, _ = piped.joinHixie(t)
		}
		done = append(done, goErr(func() error {
			want := arrivals{
				"early": messages / 2, "opening": messages / 2, "a": messages, "bb": messages, "ccc": messages, "echo": messages,
				"broadcast0": messages, "broadcast1": messages, "send": messages,
			}
			got := arrivals{}
			for range 8 * messages {
				_, p, err := deflateReaders[i%len(deflateReaders)](c)
				if err == nil {
					err = got.add(p)
				}
				if err != nil {
					c.CloseNow()
					return fmt.Errorf("client %d: %w", i, err)
				}
			}
			if !maps.Equal(got, want) {
				return fmt.Errorf("client %d got %v, want %v", i, got, want)
			}
			return nil
		}))
		if i < len(deflates) {
			done = append(done, goErr(func() error { return sendNumbered(c, "echo", messages) }))
		} else {
			done = append(done, goErr(func() error {
				for i := range messages {
					if err := c.WriteMessage(Text, numbered("echo", i, 700)); err != nil {
						return err
					}
				}
				return nil
			}))
		}
	}
	var conns []*Conn
	for range clients {
		conns = append(conns, wait(t, opening))
	}
	var writing []<-chan error
	for _, c := range conns {
		for _, source := range []string{"a", "bb", "ccc"} {
			writing = append(writing, goErr(func() error { return sendNumbered(c, source, messages) }))
		}
	}
	var half sync.WaitGroup
	for _, source := range []string{"broadcast0", "broadcast1", "send"} {
		half.Add(1)
		writing = append(writing, goErr(func() error {
			for i := range messages {
				if i == messages/2 {
					half.Done()
				}
				p := numbered(source, i, []int{10, 300, 3000, 20000, 600}[i%5])
				var err error
				if source == "send" {
					err = s.Send(Text, p, conns...)
				} else {
					err = s.Broadcast(Text, p)
				}
				if err != nil {
					return err
				}
			}
			return nil
		}))
	}
	half.Wait()
	close(open)
	for _, done := range append(writing, done...) {
		if err := wait(t, done); err != nil {
			t.Error(err)
		}
	}
}

// tapeDeflate returns a Conn over a transport in memory with compression agreed on.
func tapeDeflate(rw io.ReadWriter, d *Deflate, client bool) *Conn {
	c := newConn(rw, &Options{Deflate: d}, client)
	c.deflate = newDeflation(d, d.answer(d.offer()), client)
	c.dec.deflate = true
	return c
}

// TestDeflateBroadcastOnce checks that clients with the same parameters get the same bytes,
// and that what a broadcast allocates does not depend on their number.
func TestDeflateBroadcastOnce(t *testing.T) {
	p := sampleText(2000, 1)
	s := new(Server)
	var all []*tape
	d := &Deflate{ContextTakeover: true}
	for i := range 6 {
		rw := new(tape)
		c := tapeDeflate(rw, &Deflate{ContextTakeover: i%2 == 0, WindowBits: []int{0, 9}[i/4]}, false)
		c.deflate.Deflate = d
		if i < 4 && i%2 == 0 { // what it has got before does not matter
			c.WriteMessage(Text, sampleText(1000, 2))
			rw.events = nil
		}
		c.beginServe(-1)
		c.opened()
		s.add(c)
		defer c.CloseNow()
		all = append(all, rw)
	}
	for i := range 3 {
		if err := s.Broadcast(Text, p); err != nil {
			t.Fatal(err)
		}
		for _, c := range s.conns {
			c.mu.Lock()
			if err := c.flush(); err != nil {
				t.Error(err)
			}
			c.mu.Unlock()
		}
		for client, rw := range all {
			same := all[client/4*4]
			if got, want := rw.written(), same.written(); !bytes.Equal(got, want) {
				t.Errorf("broadcast %d: client %d got other bytes than client %d", i, client, client/4*4)
			}
			frames, err := parseWire(rw.written(), false)
			if err != nil || len(frames) != i+1 {
				t.Fatal(len(frames), err)
			}
			got := []byte(frames[i].p)
			if client < 4 { // the others have smaller windows
				got, _, err = parseDeflated(frames[i].p, nil)
			}
			if err != nil || !bytes.Equal(got, p) {
				t.Errorf("broadcast %d: client %d got %d bytes, %v", i, client, len(got), err)
			}
		}
	}

	if raceEnabled {
		return // the race detector makes pools forget
	}
	allocations := func(clients int) float64 {
		var pending sync.WaitGroup
		s := new(Server)
		z := newDeflation(d, d.offer(), false)
		frame := z.appendCompressed(nil, finBit|opText, p)
		for range clients {
			c := tapeDeflate(sink{&pending, make(chan struct{})}, d, false)
			c.beginServe(-1)
			c.opened()
			s.add(c)
			defer c.CloseNow()
		}
		return testing.AllocsPerRun(20, func() {
			pending.Add(clients * len(frame))
			s.Broadcast(Text, p)
			pending.Wait()
		})
	}
	few, many := allocations(10), allocations(400)
	if many > few+40 {
		t.Errorf("%v allocations for 10 clients, %v for 400", few, many)
	}
}

// TestDeflateBroadcastContext has broadcasts stand between messages that refer to each other.
func TestDeflateBroadcastContext(t *testing.T) {
	for _, bits := range []int{0, 9} {
		d := &Deflate{ContextTakeover: true, WindowBits: bits}
		e := &end{tap: &wireTap{Conn: tapeNetConn{tape: new(tape)}}, bits: cmp.Or(bits, 15)}
		e.Conn = tapeDeflate(e.tap, d, false)
		s := new(Server)
		e.beginServe(-1)
		e.opened()
		s.add(e.Conn)
		var want []string
		send := func(how func(MessageType, []byte) error) {
			t.Helper()
			p := sampleText(300+20*len(want), uint64(len(want)%3))
			want = append(want, string(p))
			if err := how(Text, p); err != nil {
				t.Fatal(err)
			}
			e.mu.Lock()
			defer e.mu.Unlock()
			if err := e.flush(); err != nil {
				t.Fatal(err)
			}
		}
		broadcast := func(typ MessageType, p []byte) error { return s.Broadcast(typ, p) }
		for range 3 {
			send(e.WriteMessage)
			send(broadcast)
			send(e.WriteMessage)
			send(broadcast)
			send(broadcast)
			send(e.WriteMessage)
			send(func(typ MessageType, p []byte) error {
				w, err := e.NextWriter(typ)
				if err != nil {
					return err
				}
				if _, err := w.Write(p); err != nil {
					return err
				}
				send(broadcast) // waits for Close
				return w.Close()
			})
			send(e.WriteMessage)
		}
		peer := tapeDeflate(struct {
			io.Reader
			io.Writer
		}{bytes.NewReader(bytes.Clone(e.tap.b)), io.Discard}, d, true)
		for i, want := range want {
			if _, p, err := peer.ReadMessage(); err != nil || string(p) != want {
				t.Fatalf("message %d: %d bytes instead of %d, %v", i, len(p), len(want), err)
			}
		}
		checkHistory(t, true, e)
		e.CloseNow()
	}
}

// TestDeflateFaults ends connections while compressed messages are being written. The writes
// return, and later ones fail with the same error.
func TestDeflateFaults(t *testing.T) {
	errFault := errors.New("a fault of the transport")
	for _, takeover := range []bool{false, true} {
		o := &Options{Deflate: &Deflate{ContextTakeover: takeover}, CloseTimeout: time.Second}
		for _, client := range []bool{false, true} {
			for w, write := range deflateWriters[:3] {
				for _, size := range []int{3000, 100000} {
					for _, tt := range []struct {
						name string
						end  func(c *Conn, rw *stuck) error
						want error
					}{
						{"timeout", func(c *Conn, _ *stuck) error { return c.SetWriteDeadline(time.Now().Add(time.Second)) }, os.ErrDeadlineExceeded},
						{"past", func(c *Conn, _ *stuck) error { return c.SetWriteDeadline(time.Unix(1, 0)) }, os.ErrDeadlineExceeded},
						{"CloseNow", func(c *Conn, _ *stuck) error { return c.CloseNow() }, net.ErrClosed},
						{"Close", func(c *Conn, _ *stuck) error {
							if err := c.Close(); !errors.Is(err, os.ErrDeadlineExceeded) {
								return fmt.Errorf("Close: %w", err)
							}
							return nil
						}, net.ErrClosed},
						{"fault", func(_ *Conn, rw *stuck) error {
							rw.fault = errFault
							return rw.Conn.SetWriteDeadline(time.Unix(1, 0))
						}, errFault},
					} {
						name := fmt.Sprintf("takeover=%t/client=%t/writer=%d/%d/%s", takeover, client, w, size, tt.name)
						synctest.Test(t, func(t *testing.T) {
							a, b := net.Pipe()
							defer b.Close()
							rw := &stuck{Conn: a}
							c := tapeDeflate(rw, o.Deflate, client)
							c.opts = o
							defer c.CloseNow()
							p := deflateKinds[1](size, 1)
							// Others wait for the first one.
							var writes []<-chan error
							for range 3 {
								writes = append(writes, goErr(func() error { return write(c, Text, p) }))
							}
							synctest.Wait()
							if err := tt.end(c, rw); err != nil {
								t.Errorf("%s: %v", name, err)
							}
							for _, done := range writes {
								if err := wait(t, done); !errors.Is(err, tt.want) {
									t.Errorf("%s: %v", name, err)
								}
							}
							c.SetWriteDeadline(time.Time{})
							first := c.WriteMessage(Text, p)
							if !errors.Is(first, tt.want) {
								t.Errorf("%s: later: %v", name, first)
							}
							for w, write := range deflateWriters {
								if err := write(c, Text, p); err != first {
									t.Errorf("%s: later, writer %d: %v instead of %v", name, w, err, first)
								}
							}
						})
					}
				}
			}
		}
	}
}

// A stuck is a transport that nobody reads from, whose writes can fail.
type stuck struct {
	net.Conn
	fault error
}

func (s *stuck) Write(p []byte) (int, error) {
	n, err := s.Conn.Write(p)
	return n, cmp.Or(s.fault, err)
}

// TestDeflatePool checks that compressors that were in use when their connections ended do
// not spoil messages of others.
func TestDeflatePool(t *testing.T) {
	times := 20
	if raceEnabled {
		times = 6
	}
	var done []<-chan error
	for g := range 4 {
		done = append(done, goErr(func() error {
			d := &Deflate{ContextTakeover: g%2 == 0, Threshold: -1}
			for i := range times {
				a, b := net.Pipe()
				ending := tapeDeflate(a, d, false)
				write := goErr(func() error { return deflateWriters[i%3](ending, Text, sampleText(300000, uint64(i))) })
				b.Read(make([]byte, 1000))
				close := goErr(ending.CloseNow)
				for j := range 3 {
					e := &end{tap: &wireTap{Conn: tapeNetConn{tape: new(tape)}}, bits: 15}
					e.Conn = tapeDeflate(e.tap, d, g == 3)
					p := sampleText(5000, uint64(100*g+10*i+j))
					w := (i + j) % 3
					if err := deflateWriters[w](e.Conn, Text, p); err != nil {
						return err
					}
					e.checkSent(t, Text, p, w > 0)
				}
				if err := <-close; err != nil {
					return err
				}
				if err := <-write; err == nil {
					return errors.New("a write that nobody has read succeeded")
				}
				b.Close()
			}
			return nil
		}))
	}
	for _, done := range done {
		if err := wait(t, done); err != nil {
			t.Error(err)
		}
	}
}

// TestDeflateUnclosed leaves messages from NextWriter open when their connections end, and
// closes them afterwards, twice.
func TestDeflateUnclosed(t *testing.T) {
	for _, end := range []func(*Conn) error{(*Conn).CloseNow, (*Conn).Close} {
		c, _ := tapeConn(&Options{CloseTimeout: time.Second}, false, false)
		d := new(Deflate)
		c.deflate = newDeflation(d, d.offer(), false)
		w, err := c.NextWriter(Text)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := w.Write(sampleText(1000, 1)); err != nil {
			t.Fatal(err)
		}
		end(c)
		if _, err := w.Write(sampleText(1000, 1)); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if err := w.Close(); !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		if err := w.Close(); err == nil {
			t.Error("closed twice")
		}
		if _, err := w.Write(nil); err == nil {
			t.Error("written behind the end")
		}
	}
}

// TestDeflateAllocations checks that a message is compressed without allocations, and that
// one is inflated with those of compress/flate alone, which makes tables for codes that are
// longer than nine bits.
func TestDeflateAllocations(t *testing.T) {
	if raceEnabled {
		t.Skip("pools forget under the race detector")
	}
	for _, level := range []int{-2, 1, 6} {
		for _, takeover := range []bool{false, true} {
			for _, client := range []bool{false, true} {
				for _, size := range []int{128, 1 << 10, 16 << 10, 200 << 10} {
					d := &Deflate{Level: level, ContextTakeover: takeover, Threshold: -1, WindowBits: 15}
					c := tapeDeflate(struct {
						io.Reader
						io.Writer
					}{nil, io.Discard}, d, client)
					p := sampleText(size, 1)
					if n := testing.AllocsPerRun(20, func() {
						if err := c.WriteMessage(Text, p); err != nil {
							t.Fatal(err)
						}
					}); n > 0 {
						t.Errorf("level %d, takeover %t, client %t: %v allocations for %d bytes", level, takeover, client, n, size)
					}
				}
			}
		}
	}
	// 1024 times the same byte need no such code.
	c := tapeDeflate(nil, new(Deflate), false)
	message := newCompressor(1, 15, nil).compress(make([]byte, 1024))
	c.rw = struct {
		io.Reader
		io.Writer
	}{&endless{b: appendFrame(nil, finBit|rsv1Bit|opBinary, message[:len(message)-len(syncMarker)], true)}, io.Discard}
	var p []byte
	if n := testing.AllocsPerRun(20, func() {
		var err error
		if _, p, err = c.AppendMessage(p[:0]); err != nil || len(p) != 1024 {
			t.Fatal(len(p), err)
		}
	}); n > 0 {
		t.Errorf("%v allocations to inflate a message", n)
	}
}

// benchDeflate runs a benchmark for both roles, with takeover and without, and sizes.
func benchDeflate(b *testing.B, bench func(b *testing.B, d *Deflate, client bool, p []byte)) {
	for _, client := range []bool{false, true} {
		for _, takeover := range []bool{false, true} {
			for _, size := range []int{128, 1 << 10, 16 << 10} {
				b.Run(fmt.Sprintf("client=%t/takeover=%t/%d", client, takeover, size), func(b *testing.B) {
					b.SetBytes(int64(size))
					b.ReportAllocs()
					bench(b, &Deflate{ContextTakeover: takeover, Threshold: -1}, client, sampleText(size, 1))
				})
			}
		}
	}
}

func BenchmarkDeflate(b *testing.B) {
	benchDeflate(b, func(b *testing.B, d *Deflate, client bool, p []byte) {
		rw := &counter{}
		c := tapeDeflate(rw, d, client)
		for b.Loop() {
			if err := c.WriteMessage(Text, p); err != nil {
				b.Fatal(err)
			}
		}
		b.ReportMetric(float64(rw.bytes)/float64(b.N), "wire-B/op")
	})
}

// A counter is a transport that counts what is written.
type counter struct {
	io.Reader
	bytes int64
}

func (c *counter) Write(p []byte) (int, error) {
	c.bytes += int64(len(p))
	return len(p), nil
}

func BenchmarkInflate(b *testing.B) {
	benchDeflate(b, func(b *testing.B, d *Deflate, client bool, p []byte) {
		// The second message of the peer is the one that is repeated: it refers to itself.
		rw := new(tape)
		peer := tapeDeflate(rw, d, !client)
		peer.WriteMessage(Text, p)
		first := len(rw.written())
		peer.WriteMessage(Text, p)
		in := &endless{b: rw.written()[first:]}
		c := tapeDeflate(struct {
			io.Reader
			io.Writer
		}{io.MultiReader(bytes.NewReader(rw.written()[:first]), in), io.Discard}, d, client)
		var q []byte
		for b.Loop() {
			var err error
			if _, q, err = c.AppendMessage(q[:0]); err != nil {
				b.Fatal(err)
			}
		}
		if !bytes.Equal(p, q) {
			b.Error("the message is another one")
		}
	})
}

// BenchmarkDeflateMemory reports the heap that a server's Conn takes when it is idle, after it
// has received and sent some messages of 1 KiB.
func BenchmarkDeflateMemory(b *testing.B) {
	const conns = 500
	heap := func() float64 {
		var m runtime.MemStats
		runtime.GC()
		runtime.GC() // empties the pools
		runtime.ReadMemStats(&m)
		return float64(m.HeapAlloc)
	}
	for _, mode := range []struct {
		name string
		d    *Deflate
	}{
		{"none", nil},
		{"no-takeover", &Deflate{}},
		{"takeover", &Deflate{ContextTakeover: true}},
		{"takeover/bits=12", &Deflate{ContextTakeover: true, WindowBits: 12}},
		{"takeover/bits=9", &Deflate{ContextTakeover: true, WindowBits: 9}},
	} {
		b.Run(mode.name, func(b *testing.B) {
			for b.Loop() {
				var in []byte
				rw := new(tape)
				peer, _ := tapeConn(nil, true, false)
				peer.rw = rw
				if mode.d != nil {
					peer = tapeDeflate(rw, mode.d, true)
				}
				for i := range 50 {
					peer.WriteMessage(Text, sampleText(1024, uint64(i)))
				}
				in = rw.written()
				before := heap()
				var all []*Conn
				for range conns {
					transport := &struct {
						io.Reader
						io.Writer
					}{bytes.NewReader(in), io.Discard}
					c := newConn(transport, nil, false)
					if mode.d != nil {
						c = tapeDeflate(transport, mode.d, false)
					}
					for range 50 {
						typ, p, err := c.ReadMessage()
						if err == nil {
							err = c.WriteMessage(typ, p)
						}
						if err != nil {
							b.Fatal(err)
						}
					}
					c.releaseInput()
					all = append(all, c)
				}
				b.ReportMetric((heap()-before)/conns, "heap-B/conn")
				runtime.KeepAlive(all)
			}
		})
	}
}

// TestDeflateLongOffer checks that a field of any length, which net/http may let pass, is not
// parsed.
func TestDeflateLongOffer(t *testing.T) {
	for _, lists := range [][]string{
		{deflateName + "," + strings.Repeat(" ", maxHead)},
		{deflateName, strings.Repeat(",", maxHead)},
		{deflateName + `; x="` + strings.Repeat(`\a`, maxHead/2) + `"`},
	} {
		got, err := new(Deflate).chooseExtensions(http.Header{"Sec-Websocket-Extensions": lists})
		if bad, ok := errors.AsType[*HandshakeError](err); !ok || bad.Status != http.StatusBadRequest {
			t.Errorf("%d fields: %q, %v", len(lists), got, err)
		}
	}
}

// TestDeflateStalled checks that a writer that waits for its peer holds no compressor.
func TestDeflateStalled(t *testing.T) {
	const n = 64
	heap := func() int64 {
		runtime.GC()
		runtime.GC()
		var m runtime.MemStats
		runtime.ReadMemStats(&m)
		return int64(m.HeapAlloc)
	}
	for _, takeover := range []bool{false, true} {
		before := heap()
		p := sampleText(1000, 1)
		var conns []*Conn
		var done []<-chan error
		for range n {
			rw, peer := net.Pipe()
			c := packedConn(rw, &Options{Deflate: &Deflate{ContextTakeover: takeover}}, false, takeover)
			conns = append(conns, c)
			done = append(done, goErr(func() error { return c.WriteMessage(Text, p) }))
			peer.Read(make([]byte, 1)) // the write has begun
		}
		if each := (heap() - before) / n; each > 64<<10 {
			t.Errorf("takeover=%t: a writer that waits holds %d bytes", takeover, each)
		}
		for i, c := range conns {
			c.CloseNow()
			wait(t, done[i])
		}
	}
}

// TestDeflateForget has a message compressed while broadcasts leave the queue.
func TestDeflateForget(t *testing.T) {
	p := sampleText(2000, 1)
	frame := appendFrame(nil, finBit|byte(Text), []byte("x"), false)
	for range 100 {
		rw, peer := net.Pipe()
		go io.Copy(io.Discard, peer)
		c := packedConn(rw, nil, false, false)
		c.stage = opening
		c.enqueue(frame, []byte("x"), 1<<20, false)
		var group sync.WaitGroup
		group.Go(func() { c.WriteMessage(Text, p) })
		group.Go(c.opened)
		group.Wait()
		c.CloseNow()
		peer.Close()
	}
}

// TestDeflateBusy checks that a Write that is refused, as another one is going on, leaves no
// trace.
func TestDeflateBusy(t *testing.T) {
	rw, peer := net.Pipe()
	defer peer.Close()
	c := packedConn(rw, nil, false, false)
	defer c.CloseNow()
	w, err := c.NextWriter(Text)
	if err != nil {
		t.Fatal(err)
	}
	first := goErr(func() error { _, err := io.WriteString(w, "a"); return err })
	peer.Read(make([]byte, 1))
	if _, err := io.WriteString(w, "\xc3"); !errors.Is(err, errBusy) {
		t.Error(err)
	}
	if err := w.Close(); !errors.Is(err, errBusy) {
		t.Error(err)
	}
	go io.Copy(io.Discard, peer)
	if err := wait(t, first); err != nil {
		t.Error(err)
	}
	if _, err := io.WriteString(w, "b"); err != nil {
		t.Error("after a write that was refused:", err)
	}
	if err := w.Close(); err != nil {
		t.Error(err)
	}
}
