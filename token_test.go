package websocket

import (
	"encoding/base64"
	"fmt"
	"math"
	"math/big"
	"math/rand/v2"
	"slices"
	"strconv"
	"strings"
	"testing"
)

func TestCreateToken(t *testing.T) {
	t.Parallel()
	for _, v := range hixieVectors {
		req := &Request{Version: Hixie76, Key1: v.key1, Key2: v.key2, Token: v.token}
		if got := CreateToken(req); string(got) != v.answer {
			t.Errorf("%s: got %q, want %q", v.source, got, v.answer)
		}
	}
	for _, v := range []struct{ source, key, accept string }{
		{"RFC 6455, section 1.3", "dGhlIHNhbXBsZSBub25jZQ==", "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="},
		{"Wikipedia, WebSocket", "x3JJHMbDL1EzLkh9GBhXDw==", "HSmrc0sMlYUkAGmm5OPpG2HaGWk="},
	} {
		if got := CreateToken(&Request{Version: RFC6455, Key: v.key}); string(got) != v.accept {
			t.Errorf("%s: got %q, want %q", v.source, got, v.accept)
		}
	}
}

func TestCreateTokenRefuses(t *testing.T) {
	t.Parallel()
	v := hixieVectors[0]
	for _, k := range hixieRefusedKeys {
		for i, req := range []*Request{
			{Version: Hixie76, Key1: k.key, Key2: v.key2, Token: v.token},
			{Version: Hixie76, Key1: v.key1, Key2: k.key, Token: v.token},
		} {
			if got := CreateToken(req); got != nil {
				t.Errorf("%s, key %d: got %q", k.rule, i+1, got)
			}
		}
		if _, err := keyNumber(k.key); err == nil || !strings.Contains(err.Error(), k.reason) {
			t.Errorf("%s: error %v, want one with %q", k.rule, err, k.reason)
		}
	}
	for _, token := range []string{"", v.token[:7], v.token + "x"} {
		if got := CreateToken(&Request{Version: Hixie76, Key1: v.key1, Key2: v.key2, Token: token}); got != nil {
			t.Errorf("token %q: got %q", token, got)
		}
	}
	for _, key := range refusedKeys {
		if got := CreateToken(&Request{Version: RFC6455, Key: key}); got != nil {
			t.Errorf("key %q: got %q", key, got)
		}
	}
	for _, version := range []Version{0, 8, 75} {
		if got := CreateToken(&Request{Version: version, Key: "dGhlIHNhbXBsZSBub25jZQ==", Key1: v.key1, Key2: v.key2, Token: v.token}); got != nil {
			t.Errorf("version %d: got %q", version, got)
		}
	}
}

// The number of a key against arithmetic without limits.
func TestKeyNumber(t *testing.T) {
	t.Parallel()
	check := func(key string) {
		t.Helper()
		digits := strings.Map(func(r rune) rune {
			if '0' <= r && r <= '9' {
				return r
			}
			return -1
		}, key)
		spaces := big.NewInt(int64(strings.Count(key, " ")))
		want := new(big.Int)
		_, ok := want.SetString(digits, 10)
		if ok = ok && spaces.Sign() > 0; ok {
			var rest big.Int
			want.QuoRem(want, spaces, &rest)
			ok = rest.Sign() == 0 && want.Cmp(big.NewInt(math.MaxUint32)) <= 0
		}
		got, err := keyNumber(key)
		if (err == nil) != ok || ok && want.Uint64() != uint64(got) {
			t.Errorf("%q: got %d, %v, want %v, %v", key, got, err, want, ok)
		}
	}

	check(" 0")          // 0 is legal
	check("4294967295 ") // the largest quotient
	check("4294967296 ")
	check("51539607540" + strings.Repeat(" ", 12)) // the same from a larger number
	check("51539607552" + strings.Repeat(" ", 12))
	check(" " + strings.Repeat("0", 50) + "7")
	for n := range 30 {
		check(" 1" + strings.Repeat("0", n))
		check(" " + strings.Repeat("9", n))
		check("  18446744073709551" + fmt.Sprint(600+n)) // around 2^64
	}
	rnd := rand.New(rand.NewPCG(1, 2))
	for range 10_000 {
		spaces := 1 + rnd.IntN(12)
		number := uint64(rnd.Uint32()>>rnd.IntN(32)) * uint64(spaces)
		if rnd.IntN(8) == 0 {
			number += rnd.Uint64N(20)
		}
		key := strconv.AppendUint(nil, number, 10)
		for _, c := range strings.Repeat(" ", spaces) + "!#/:AZaz~\t"[rnd.IntN(10):] {
			key = slices.Insert(key, rnd.IntN(len(key)+1), byte(c))
		}
		check(string(key))
	}
}

// Every accepted key is one that decodes to 16 bytes.
func TestCheckKey(t *testing.T) {
	t.Parallel()
	for n := range 40 {
		key := base64.StdEncoding.EncodeToString(make([]byte, n))
		if err := checkKey(key); (err == nil) != (n == 16) {
			t.Errorf("%d bytes: %v", n, err)
		}
	}
}

// hixieVectors are the keys, token and answer of opening handshakes that were
// published or captured.
var hixieVectors = []struct {
	source                    string
	key1, key2, token, answer string
}{
	{"draft 1.2", "4 @1  46546xW%0l 1 5", "12998 5 Y3 1  .P00", "^n:ds[4U", "8jKS'y:G*Co,Wxa-"},
	{"draft 1.3", "18x 6]8vM;54 *(5:  {   U1]8  z [  8", "1_ tx7X d  <  nw  334J702) 7]o}` 0", "Tm[K T2u", "fQJ,fN/4F4!~K~MH"},
	{"draft 5.2", "3e6b263  4 17 80", "17  9 G`ZD9   2 2b 7X 3 /r90", "WjN}|M(6", "n`9eBk9z$R8pOtVb"},
	{"draft 4.1", "P388 O503D&ul7 {K%gX( %7  15", "1 N ?|k UT0or 3o  4 I97N 5-S3O 31", "\x47\x30\x22\x2d\x5a\x3f\x47\x58", "0st3Rl&q-2ZU^weu"},
	{"faye websocket-driver", "1   38 wZ3f9 23O0 3l 0r", "27   0E 6 2  1665:< ;U 1H", "\x91\x25\x3e\xd3\xa9\xe7\x6a\x88",
		"\xb4\x9c\x6e\x40\x53\x04\x04\x26\xe5\x1b\xbf\x6c\xb7\x9f\x1d\xf9"},
	{"capture of 2011", "30  ;- 5=5 u 4 1  7336", ":2 8 G(  07A 93Ql 3 *20 Ox0G'w", "\x5d\x9f\xb0\x67\x0f\xe4\xfa\x75",
		"\xb6\xbc\x2a\x9e\xa0\x0c\x1c\xb9\x0f\xad\xdc\x97\x90\x60\x17\xa8"},
}

// hixieRefusedKeys prove nothing. The reasons are those of rules 5 and 6 of
// draft section 5.2.
var hixieRefusedKeys = []struct{ rule, key, reason string }{
	{"5.2 (6): 2785899415 is no multiple of 4", "2 L785 8o% s9Sy9@V. 4<1P5", "do not divide"},
	{"5.2 (6): 4146546016 is no multiple of 5", "4 @1  46546xW%0l 1 6", "do not divide"},
	{"5.2 (5): no space", "4@146546xW%0l15", "no space"},
	{"5.2 (5): only U+0020 is a space", "4\t4\u00a04", "no space"},
	{"5.2 (4): overflow", "99999999 9999", "too large"},
	{"5.2 (4): a hundred digits", strings.Repeat("9", 100) + " ", "too large"},
	{"5.2 (4): 2^64+12 wraps to 12", "1844674407370955 1628 ", "too large"},
	{"5.2 (4): 2^32+12 wraps to 12", "429 4967308", "too large"},
	{"5.2 (4): 2^32", "42949 67296", "too large"},
	{"5.2 (4): no digit", "a b c", "no digit"},
	{"5.2 (4): only U+0030 to U+0039 are digits", "\u0661 \uff11", "no digit"},
	{"5.2 (4): empty", "", "no digit"},
}

// refusedKeys are values of Sec-WebSocket-Key that are not 16 bytes in base64
// (RFC 6455, section 4.2.1, item 5).
var refusedKeys = []string{
	"",
	"dGhlIHNhbXBsZSBub25j",         // 15 bytes
	"dGhlIHNhbXBsZSBub25jZWU=",     // 17 bytes
	"dGhlIHNhbXBsZSBub25jZWVl",     // 18 bytes
	"dGhlIHNhbXBsZSBub25jZQ",       // no padding
	"dGhlIHNhbXBsZSBub25jZQ=",      // half of it
	"dGhlIHNhbXBsZSBub25jZQ===",    // too much of it
	"dGhlIHNhbXBsZS-ub25jZQ==",     // base64url
	"dGhlIHNhbXBsZSBub25j Q==",     // a space
	"dGhlIHNhbXBsZSBub25jZQ\x80==", // a byte beyond ASCII
	"dGhlIHNhbXBsZSBub25jZQ==AA==", // two of them
	strings.Repeat("A", 4096),
}
