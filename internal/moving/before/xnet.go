package before

import (
	"errors"
	"net/http"

	"golang.org/x/net/websocket"
)

type Sum struct{ A, B, Sum int }

// Sums returns a handler that adds numbers for pages of one origin.
func Sums(origin string) http.Handler {
	return websocket.Server{
		Handshake: func(config *websocket.Config, r *http.Request) error {
			if r.Header.Get("Origin") != origin {
				return errors.New("pages of this origin may not connect")
			}
			return nil
		},
		Handler: func(ws *websocket.Conn) {
			ws.MaxPayloadBytes = 4096
			for {
				var s Sum
				if err := websocket.JSON.Receive(ws, &s); err != nil {
					return
				}
				s.Sum = s.A + s.B
				if err := websocket.JSON.Send(ws, s); err != nil {
					return
				}
			}
		},
	}
}

// Add has a server add numbers.
func Add(url, origin string, numbers ...int) (sum int, err error) {
	ws, err := websocket.Dial(url, "", origin)
	if err != nil {
		return 0, err
	}
	defer ws.Close()
	for _, n := range numbers {
		s := Sum{A: sum, B: n}
		if err := websocket.JSON.Send(ws, s); err != nil {
			return 0, err
		}
		if err := websocket.JSON.Receive(ws, &s); err != nil {
			return 0, err
		}
		sum = s.Sum
	}
	return sum, nil
}
