// The answer to the keys of an opening handshake, for both versions.

package websocket

import (
	"crypto/md5"
	"crypto/sha1"
	"encoding/base64"
	"encoding/binary"
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
		challenge := binary.BigEndian.AppendUint32(make([]byte, 0, 16), n1)
		challenge = binary.BigEndian.AppendUint32(challenge, n2)
		sum := md5.Sum(append(challenge, req.Token...))
		return sum[:]
	}
	return nil
}
