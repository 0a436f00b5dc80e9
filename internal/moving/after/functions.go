package after

import (
	"context"
	"encoding/json"
	"errors"
	"time"

	"github.com/54eee7d7/websocket"
)

func readJSON(c *websocket.Conn, v any) error {
	_, p, err := c.ReadMessage()
	if err != nil {
		return err
	}
	err = json.Unmarshal(p, v)
	if err != nil {
		c.CloseWith(websocket.CloseInvalidPayload, "this is not the JSON that is expected")
	}
	return err
}

func writeJSON(c *websocket.Conn, v any) error {
	p, err := json.Marshal(v)
	if err != nil {
		return err
	}
	return c.WriteMessage(websocket.Text, p)
}

// closeCode returns the code that a connection has ended with, or 0.
func closeCode(err error) websocket.CloseCode {
	if closed, ok := errors.AsType[*websocket.CloseError](err); ok {
		return closed.Code
	}
	return 0
}

// readContext is ReadMessage until ctx is done. Then c can be read from again.
func readContext(ctx context.Context, c *websocket.Conn) (websocket.MessageType, []byte, error) {
	late := make(chan struct{})
	stop := context.AfterFunc(ctx, func() {
		c.SetReadDeadline(time.Unix(1, 0))
		close(late)
	})
	t, p, err := c.ReadMessage()
	if !stop() {
		<-late
		c.SetReadDeadline(time.Time{})
	}
	return t, p, err
}
