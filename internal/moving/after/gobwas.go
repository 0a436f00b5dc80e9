package after

import (
	"context"
	"errors"
	"net"
	"net/http"

	"github.com/54eee7d7/websocket"
)

// Control greets a device, and acknowledges what it reports.
func Control(conn net.Conn) error {
	c := websocket.NewConn(conn, nil)
	defer c.Close()
	req, err := websocket.GetRequest(c)
	var device string
	if err == nil {
		if device = req.Header.Get("Device"); device == "" {
			err = &websocket.HandshakeError{Status: http.StatusForbidden, Reason: "devices only"}
		}
	}
	if refusal, ok := errors.AsType[*websocket.HandshakeError](err); ok {
		websocket.PutRefusal(c, refusal)
	}
	if err != nil {
		return err
	}
	req.ResponseHeader = http.Header{"Control": {"1"}}
	if err := websocket.PutResponse(c, req); err != nil {
		return err
	}
	if err := websocket.PutFrame(c, []byte("hello, "+device)); err != nil {
		return err
	}
	for {
		t, p, err := c.ReadMessage()
		if err != nil {
			return err
		}
		if err := c.WriteMessage(t, append([]byte("noted: "), p...)); err != nil {
			return err
		}
	}
}

// Report is a device's report to its control. It returns the greeting and the answer.
func Report(ctx context.Context, url, device string, report []byte) (greeting, answer string, err error) {
	c, err := websocket.Dial(ctx, url, &websocket.Options{Header: http.Header{"Device": {device}}})
	if err != nil {
		return "", "", err
	}
	defer c.CloseNow()
	hello, err := websocket.GetFrame(c)
	if err != nil {
		return "", "", err
	}
	if err := c.WriteMessage(websocket.Binary, report); err != nil {
		return "", "", err
	}
	_, p, err := c.ReadMessage()
	if err != nil {
		return "", "", err
	}
	return string(hello), string(p), c.Close()
}
