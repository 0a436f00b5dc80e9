package before

import (
	"context"
	"io"
	"net"
	"net/http"
	"time"

	"github.com/gobwas/ws"
	"github.com/gobwas/ws/wsutil"
)

// Control greets a device, and acknowledges what it reports.
func Control(conn net.Conn) error {
	defer conn.Close()
	var device string
	upgrader := ws.Upgrader{
		OnHeader: func(key, value []byte) error {
			if string(key) == "Device" {
				device = string(value)
			}
			return nil
		},
		OnBeforeUpgrade: func() (ws.HandshakeHeader, error) {
			if device == "" {
				return nil, ws.RejectConnectionError(ws.RejectionStatus(http.StatusForbidden), ws.RejectionReason("devices only"))
			}
			return ws.HandshakeHeaderHTTP{"Control": {"1"}}, nil
		},
	}
	conn.SetDeadline(time.Now().Add(10 * time.Second))
	if _, err := upgrader.Upgrade(conn); err != nil {
		return err
	}
	conn.SetDeadline(time.Time{})
	if err := wsutil.WriteServerText(conn, []byte("hello, "+device)); err != nil {
		return err
	}
	for {
		p, op, err := wsutil.ReadClientData(conn)
		if err != nil {
			return err
		}
		if err := wsutil.WriteServerMessage(conn, op, append([]byte("noted: "), p...)); err != nil {
			return err
		}
	}
}

// Report is a device's report to its control. It returns the greeting and the answer.
func Report(ctx context.Context, url, device string, report []byte) (greeting, answer string, err error) {
	dialer := ws.Dialer{Header: ws.HandshakeHeaderHTTP{"Device": {device}}}
	conn, br, _, err := dialer.Dial(ctx, url)
	if err != nil {
		return "", "", err
	}
	defer conn.Close()
	var rw io.ReadWriter = conn
	if br != nil { // it has the greeting, or a part of it
		defer ws.PutReader(br)
		rw = struct {
			io.Reader
			io.Writer
		}{br, conn}
	}
	hello, err := wsutil.ReadServerText(rw)
	if err != nil {
		return "", "", err
	}
	if err := wsutil.WriteClientBinary(rw, report); err != nil {
		return "", "", err
	}
	p, err := wsutil.ReadServerBinary(rw)
	if err != nil {
		return "", "", err
	}
	body := ws.NewCloseFrameBody(ws.StatusNormalClosure, "")
	return string(hello), string(p), wsutil.WriteClientMessage(conn, ws.OpClose, body)
}
