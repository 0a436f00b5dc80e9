package after

import (
	"context"
	"errors"
	"io"

	"github.com/54eee7d7/websocket"
)

// NewChat returns a server that sends what a client says to everybody.
func NewChat() *websocket.Server {
	chat := &websocket.Server{Options: websocket.Options{MaxMessage: 512}}
	chat.OnMessage = func(c *websocket.Conn, t websocket.MessageType, p []byte) {
		chat.Broadcast(t, p)
	}
	return chat
}

// Join says hello to a chat, and passes on what it hears until ctx is done.
func Join(ctx context.Context, url, hello string, heard func(string)) error {
	c, err := websocket.Dial(ctx, url, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() { c.Close() })()
	if err := c.WriteMessage(websocket.Text, []byte(hello)); err != nil {
		return err
	}
	for {
		_, p, err := c.ReadMessage()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		heard(string(p))
	}
}
