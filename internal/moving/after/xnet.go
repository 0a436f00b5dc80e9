package after

import (
	"context"
	"encoding/json"
	"net/http"

	"github.com/54eee7d7/websocket"
)

type Sum struct{ A, B, Sum int }

// Sums returns a handler that adds numbers for pages of one origin.
func Sums(origin string) http.Handler {
	return &websocket.Server{
		Options: websocket.Options{Origins: []string{origin}, MaxMessage: 4096},
		Handler: websocket.Handler{
			OnMessage: func(c *websocket.Conn, t websocket.MessageType, p []byte) {
				var s Sum
				if err := json.Unmarshal(p, &s); err != nil {
					c.CloseWith(websocket.CloseInvalidPayload, "this is no sum in JSON")
					return
				}
				s.Sum = s.A + s.B
				writeJSON(c, s)
			},
		},
	}
}

// Add has a server add numbers.
func Add(url, origin string, numbers ...int) (sum int, err error) {
	c, err := websocket.Dial(context.Background(), url, &websocket.Options{
		Header: http.Header{"Origin": {origin}},
	})
	if err != nil {
		return 0, err
	}
	defer c.Close()
	for _, n := range numbers {
		s := Sum{A: sum, B: n}
		if err := writeJSON(c, s); err != nil {
			return 0, err
		}
		if err := readJSON(c, &s); err != nil {
			return 0, err
		}
		sum = s.Sum
	}
	return sum, nil
}
