package before

import (
	"context"
	"net/http"
	"sync"
	"time"

	"github.com/gorilla/websocket"
)

const (
	writeWait  = 10 * time.Second
	pongWait   = 60 * time.Second
	pingPeriod = pongWait * 9 / 10
)

var upgrader = websocket.Upgrader{ReadBufferSize: 1024, WriteBufferSize: 1024}

// A Chat sends what a client says to everybody.
type Chat struct {
	mu      sync.Mutex
	clients map[*client]bool
}

func NewChat() *Chat { return &Chat{clients: make(map[*client]bool)} }

type client struct {
	conn *websocket.Conn
	send chan []byte
}

func (h *Chat) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	conn, err := upgrader.Upgrade(w, r, nil)
	if err != nil {
		return
	}
	c := &client{conn, make(chan []byte, 256)}
	h.mu.Lock()
	h.clients[c] = true
	h.mu.Unlock()
	go c.writePump()
	h.readPump(c)
}

func (h *Chat) readPump(c *client) {
	defer c.conn.Close()
	defer h.leave(c)
	c.conn.SetReadLimit(512)
	c.conn.SetReadDeadline(time.Now().Add(pongWait))
	c.conn.SetPongHandler(func(string) error {
		return c.conn.SetReadDeadline(time.Now().Add(pongWait))
	})
	for {
		_, p, err := c.conn.ReadMessage()
		if err != nil {
			return
		}
		h.broadcast(p)
	}
}

func (h *Chat) broadcast(p []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for c := range h.clients {
		select {
		case c.send <- p:
		default: // it reads too slowly
			delete(h.clients, c)
			close(c.send)
		}
	}
}

func (h *Chat) leave(c *client) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.clients[c] {
		delete(h.clients, c)
		close(c.send)
	}
}

func (c *client) writePump() {
	ticker := time.NewTicker(pingPeriod)
	defer ticker.Stop()
	defer c.conn.Close()
	for {
		select {
		case p, ok := <-c.send:
			c.conn.SetWriteDeadline(time.Now().Add(writeWait))
			if !ok {
				c.conn.WriteMessage(websocket.CloseMessage, nil)
				return
			}
			if c.conn.WriteMessage(websocket.TextMessage, p) != nil {
				return
			}
		case <-ticker.C:
			c.conn.SetWriteDeadline(time.Now().Add(writeWait))
			if c.conn.WriteMessage(websocket.PingMessage, nil) != nil {
				return
			}
		}
	}
}

// Join says hello to a chat, and passes on what it hears until ctx is done.
func Join(ctx context.Context, url, hello string, heard func(string)) error {
	c, _, err := websocket.DefaultDialer.DialContext(ctx, url, nil)
	if err != nil {
		return err
	}
	defer c.Close()
	defer context.AfterFunc(ctx, func() {
		goodbye := websocket.FormatCloseMessage(websocket.CloseNormalClosure, "")
		c.WriteControl(websocket.CloseMessage, goodbye, time.Now().Add(writeWait))
		time.AfterFunc(writeWait, func() { c.Close() })
	})()
	if err := c.WriteMessage(websocket.TextMessage, []byte(hello)); err != nil {
		return err
	}
	for {
		_, p, err := c.ReadMessage()
		if websocket.IsCloseError(err, websocket.CloseNormalClosure, websocket.CloseGoingAway) {
			return nil
		}
		if err != nil {
			return err
		}
		heard(string(p))
	}
}
