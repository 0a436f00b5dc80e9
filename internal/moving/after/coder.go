package after

import (
	"context"
	"net/http"
	"time"

	"github.com/54eee7d7/websocket"
)

type Question struct{ Text string }

type Answer struct{ Text string }

// Answers answers questions in JSON, in the subprotocol "answers".
func Answers(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Upgrade(w, r, &websocket.Options{
		Protocols:  []string{"answers"},
		Origins:    []string{"https://*.example.com"},
		MaxMessage: 32 << 10,
	})
	if err != nil {
		return
	}
	defer c.CloseNow()
	if c.Request().Protocol != "answers" {
		c.CloseWith(websocket.ClosePolicyViolation, "the subprotocol is answers")
		return
	}
	for {
		c.SetDeadline(time.Now().Add(time.Minute))
		var q Question
		if err := readJSON(c, &q); err != nil {
			return
		}
		if err := writeJSON(c, Answer{"I think so, too: " + q.Text}); err != nil {
			return
		}
	}
}

// Ask asks a server one question.
func Ask(ctx context.Context, url string, q Question) (a Answer, err error) {
	c, err := websocket.Dial(ctx, url, &websocket.Options{Protocols: []string{"answers"}})
	if err != nil {
		return a, err
	}
	defer c.CloseNow()
	defer context.AfterFunc(ctx, func() { c.CloseNow() })()
	if err := writeJSON(c, q); err != nil {
		return a, err
	}
	if err := readJSON(c, &a); err != nil {
		return a, err
	}
	return a, c.Close()
}
