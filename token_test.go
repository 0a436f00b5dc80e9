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
