package websocket

import (
	"crypto/md5"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"math"
)

// acceptGUID is appended to the client's key before it is hashed
// (RFC 6455, section 1.3).
const acceptGUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"

// CreateToken returns the proof that the server has read the opening handshake req. For
// [RFC6455] it is the value of Sec-WebSocket-Accept, 28 bytes of base64 (RFC 6455,
// section 4.2.2). For [Hixie76] it is the 16 bytes of an MD5 sum over both keys and the
// token, which follow the head of the response (draft-ietf-hybi-thewebsocketprotocol-00,
// section 5.2). It returns nil if the keys are not valid, which never happens for a
// Request from [GetRequest].
func CreateToken(req *Request) []byte {
	switch req.Version {
	case RFC6455:
		if checkKey(req.Key) != nil {
			return nil
		}
		sum := sha1.Sum([]byte(req.Key + acceptGUID))
		return base64.StdEncoding.AppendEncode(nil, sum[:])
	case Hixie76:
		n1, err1 := keyNumber(req.Key1)
		n2, err2 := keyNumber(req.Key2)
		if err1 != nil || err2 != nil || len(req.Token) != tokenSize {
			return nil
		}
		var challenge [16]byte
		binary.BigEndian.PutUint32(challenge[0:], n1)
		binary.BigEndian.PutUint32(challenge[4:], n2)
		copy(challenge[8:], req.Token)
		sum := md5.Sum(challenge[:])
		return sum[:]
	}
	return nil
}

// tokenSize is the number of bytes that a hixie-76 client sends behind the
// blank line of its head.
const tokenSize = 8

// checkKey reports what is wrong with the value of Sec-WebSocket-Key, which
// has to be 16 bytes in base64 (RFC 6455, section 4.2.1, item 5).
func checkKey(key string) error {
	var nonce [18]byte // what 24 digits of base64 can hold
	if len(key) == 24 {
		if n, err := base64.StdEncoding.Decode(nonce[:], []byte(key)); err == nil && n == 16 {
			return nil
		}
	}
	return errors.New("is not 16 bytes in base64")
}

// keyNumber returns the number hidden in a hixie-76 key: its digits read as
// one number in base ten, divided by the number of its spaces (draft section
// 5.2, steps 4 to 7).
func keyNumber(key string) (uint32, error) {
	var number, spaces uint64
	digits := false
	for i := range len(key) {
		switch c := key[i]; {
		case c == ' ':
			spaces++
		case '0' <= c && c <= '9':
			digits = true
			if number > (math.MaxUint64-9)/10 {
				return 0, errors.New("holds a number that is too large")
			}
			number = number*10 + uint64(c-'0')
		}
	}
	switch {
	case !digits:
		return 0, errors.New("holds no digit")
	case spaces == 0:
		return 0, errors.New("holds no space")
	case number%spaces != 0:
		return 0, errors.New("holds a number that its spaces do not divide")
	case number/spaces > math.MaxUint32:
		return 0, errors.New("holds a number that is too large")
	}
	return uint32(number / spaces), nil
}
