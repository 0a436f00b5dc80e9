package after

import (
	"encoding/json"

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
