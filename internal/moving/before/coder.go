package before

import (
	"context"
	"net/http"
	"time"

	"github.com/coder/websocket"
	"github.com/coder/websocket/wsjson"
)

type Question struct{ Text string }

type Answer struct{ Text string }

// Answers answers questions in JSON, in the subprotocol "answers".
func Answers(w http.ResponseWriter, r *http.Request) {
	c, err := websocket.Accept(w, r, &websocket.AcceptOptions{
		Subprotocols:   []string{"answers"},
		OriginPatterns: []string{"*.example.com"},
	})
	if err != nil {
		return
	}
	defer c.CloseNow()
	if c.Subprotocol() != "answers" {
		c.Close(websocket.StatusPolicyViolation, "the subprotocol is answers")
		return
	}
	for answerNext(context.Background(), c) == nil {
	}
}

func answerNext(ctx context.Context, c *websocket.Conn) error {
	ctx, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	var q Question
	if err := wsjson.Read(ctx, c, &q); err != nil {
		return err
	}
	return wsjson.Write(ctx, c, Answer{"I think so, too: " + q.Text})
}

// Ask asks a server one question.
func Ask(ctx context.Context, url string, q Question) (a Answer, err error) {
	c, _, err := websocket.Dial(ctx, url, &websocket.DialOptions{Subprotocols: []string{"answers"}})
	if err != nil {
		return a, err
	}
	defer c.CloseNow()
	if err := wsjson.Write(ctx, c, q); err != nil {
		return a, err
	}
	if err := wsjson.Read(ctx, c, &a); err != nil {
		return a, err
	}
	return a, c.Close(websocket.StatusNormalClosure, "")
}
