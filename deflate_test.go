package websocket

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"testing"
)

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
	if c != nil && (c.read.unpack != nil) != (want != "") {
		t.Errorf("%s: the connection has compression: %t", way, c.read.unpack != nil)
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
		if err != nil || req.Extensions != "" || c.read.unpack != nil || strings.Contains(stream.out.String(), "Extensions") {
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
					if _, ok := errors.AsType[*HandshakeError](err); !ok || response != "" || stream.writes != 0 || c.read.unpack != nil {
						t.Errorf("%v, wrote %q, CreateResponse %q", err, stream.out.String(), response)
					}
					checkNoResponse(t, req)
					continue
				}
				want := answered(tt.extensions)
				if err != nil || stream.out.String() != want || response != want || (c.read.unpack != nil) != (tt.extensions != "") {
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
			{server.write.deflate.window, tt.toClient},
			{server.read.unpack.window, tt.toServer},
			{client.write.deflate.window, tt.toServer},
			{client.read.unpack.window, tt.toClient},
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
		fault      string   // or empty, if it is accepted
	}
	const (
		other  = "names an extension that was not offered"
		repeat = "names permessage-deflate more than once"
		params = "has a parameter that permessage-deflate does not allow there"
		list   = "is no list of extensions, or longer than 8 KiB"
		server = "has a server_max_window_bits above the one that was asked for"
		client = "has a client_max_window_bits above the one that was offered"
	)
	// What no client takes for an answer.
	bad := []response{
		{[]string{"x"}, other},
		{[]string{pmd + ", x"}, other},
		{[]string{"x, " + bothReset}, other},
		{[]string{bothReset + ", " + bothReset}, repeat},
		{[]string{bothReset, bothReset}, repeat},
		{[]string{bothReset, "x"}, other},
		{[]string{bothReset + "; x"}, params},
		{[]string{bothReset + ";"}, list},
		{[]string{bothReset + "; server_no_context_takeover"}, params},
		{[]string{bothReset + "; client_max_window_bits=9; client_max_window_bits=9"}, params},
		{[]string{bothReset + "; client_max_window_bits"}, params},
		{[]string{bothReset + "; server_max_window_bits"}, params},
		{[]string{bothReset + "; server_max_window_bits="}, list},
		{[]string{bothReset + "; server_max_window_bits=7"}, params},
		{[]string{bothReset + "; server_max_window_bits=16"}, params},
		{[]string{bothReset + "; server_max_window_bits=09"}, params},
		{[]string{bothReset + `; server_max_window_bits="10\"`}, list},
		{[]string{bothReset + "; client_max_window_bits=16"}, params},
		{[]string{pmd + "; server_no_context_takeover=1"}, params},
		{[]string{"permessage-deflate=1"}, list},
	}
	for _, tt := range []struct {
		name    string
		d       *Deflate
		offer   string
		answers []response
	}{
		{"none", nil, "", []response{
			{nil, ""},
			{[]string{pmd}, other},
			{[]string{bothReset}, other},
			{[]string{pmd + "="}, list},
		}},
		{"zero", &Deflate{}, bothReset + "; client_max_window_bits", []response{
			{nil, ""},
			{[]string{bothReset}, ""},
			{[]string{pmd + "; server_no_context_takeover"}, ""}, // 7.1.1.2: the rest was a hint
			{[]string{"Permessage-Deflate;server_NO_context_takeover"}, ""},
			{[]string{" ," + bothReset + ", "}, ""},
			{[]string{bothReset + "; server_max_window_bits=8; client_max_window_bits=8"}, ""},
			{[]string{bothReset + `; server_max_window_bits="1\5"; client_max_window_bits=15`}, ""},
			{[]string{pmd}, ""}, // what it leaves out can be borne
			{[]string{pmd + "; client_no_context_takeover"}, ""},
			{[]string{pmd + "; server_max_window_bits=12"}, ""},
		}},
		{"takeover", &Deflate{ContextTakeover: true}, pmd + "; client_max_window_bits", []response{
			{[]string{pmd}, ""},
			{[]string{bothReset}, ""},
			{[]string{pmd + "; client_no_context_takeover"}, ""},
			{[]string{pmd + "; client_max_window_bits=9"}, ""},
			{[]string{pmd + "; server_max_window_bits=9"}, ""}, // 7.1.2.1: though it was not asked for
		}},
		{"15 bits", &Deflate{ContextTakeover: true, WindowBits: 15}, pmd + "; client_max_window_bits", []response{
			{[]string{pmd + "; server_max_window_bits=15; client_max_window_bits=15"}, ""},
		}},
		{"10 bits", &Deflate{WindowBits: 10}, allOffered, []response{
			{[]string{allOffered}, ""},
			{[]string{bothReset + "; server_max_window_bits=9; client_max_window_bits=8"}, ""},
			{[]string{bothReset + "; server_max_window_bits=10"}, ""},
			{[]string{bothReset}, ""}, // likewise
			{[]string{bothReset + "; client_max_window_bits=10"}, ""},
			{[]string{pmd}, ""},
			{[]string{pmd + "; client_max_window_bits=9"}, ""},
			{[]string{bothReset + "; server_max_window_bits=11"}, server},
			{[]string{bothReset + "; server_max_window_bits=10; client_max_window_bits=11"}, client},
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
					if a.fault != "" {
						e, ok := errors.AsType[*HandshakeError](err)
						if c != nil || !ok || e.Field != "Sec-WebSocket-Extensions" || e.Reason != "the server's Sec-WebSocket-Extensions "+a.fault {
							t.Fatalf("%v, %v", c, err)
						}
						return
					}
					if err != nil {
						t.Fatal(err)
					}
					if got := c.Request().Extensions; got != strings.Trim(strings.Join(a.extensions, ", "), " ") ||
						(c.read.unpack != nil) != (got != "") {
						t.Errorf("extensions %q, compression %t", got, c.read.unpack != nil)
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

// TestDeflateClientBears has servers that leave out what they were asked for, and keep their
// context, or more of it, for what they send.
func TestDeflateClientBears(t *testing.T) {
	t.Parallel()
	text := sampleText(12<<10, 1)
	for _, tt := range []struct {
		d      Deflate
		answer string
		keeps  bool // the server's context
	}{
		{Deflate{}, pmd, true},
		{Deflate{}, pmd + "; client_no_context_takeover", true},
		{Deflate{}, pmd + "; client_max_window_bits=9", true},
		{Deflate{WindowBits: 9}, pmd, true},
		{Deflate{WindowBits: 9}, pmd + "; server_no_context_takeover; client_max_window_bits=9", false},
		{Deflate{WindowBits: 9, ContextTakeover: true}, pmd, true},
	} {
		for _, by := range connectors {
			c, err := by.connect(t, t.Context(), "ws://h/", &Options{Deflate: &tt.d}, func(conn net.Conn) {
				answer(conn, strings.Replace(accepting, "\r\n\r\n", "\r\nSec-WebSocket-Extensions: "+tt.answer+"\r\n\r\n", 1))
				z := newPeerDeflater(9)
				for range 4 {
					conn.Write(appendFrame(nil, finBit|opText|rsv1Bit, []byte(z.message(string(text))), false))
					if !tt.keeps {
						z = newPeerDeflater(9)
					}
				}
				io.Copy(io.Discard, conn)
			})
			if err != nil {
				t.Fatalf("%+v, %s, %s: %v", tt.d, tt.answer, by.name, err)
			}
			for i := range 4 {
				if _, p, err := c.ReadMessage(); err != nil || string(p) != string(text) {
					t.Fatalf("%+v, %s, %s: message %d has %d bytes, %v", tt.d, tt.answer, by.name, i, len(p), err)
				}
			}
			c.CloseNow()
		}
	}
}

// TestDeflateCarelessClient has a client that refers to an earlier message whatever was agreed
// on. With context takeover that is right; without, the server knows of no such message.
func TestDeflateCarelessClient(t *testing.T) {
	t.Parallel()
	text := string(sampleText(4<<10, 1))
	for _, takeover := range []bool{true, false} {
		z := newPeerDeflater(9)
		wire := offering(t, pmd+"; client_max_window_bits")
		for range 2 {
			wire += string(wf(0xC1, z.message(text)).append(nil, true, false))
		}
		c := NewConn(&memStream{Reader: strings.NewReader(wire)}, &Options{Deflate: &Deflate{ContextTakeover: takeover}})
		if _, err := ShakeHands(c); err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			_, p, err := c.ReadMessage()
			if i == 1 && !takeover {
				checkCode(t, err, CloseInvalidPayload, byFailure)
			} else if err != nil || string(p) != text {
				t.Errorf("takeover=%v: message %d has %d bytes, %v", takeover, i, len(p), err)
			}
		}
	}
}
