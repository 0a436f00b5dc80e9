package after

import (
	"context"
	"net/http"

	"github.com/54eee7d7/websocket"
)

// NewJobs returns a handler that has the work done that its clients ask for.
func NewJobs(work func(user, task string) string) http.Handler {
	jobs := &websocket.Server{Options: websocket.Options{
		MaxMessage: 16 << 20,
		Origins:    []string{"*"},
		Deflate:    &websocket.Deflate{},
	}}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		user, _, ok := r.BasicAuth()
		if !ok {
			http.Error(w, "who are you?", http.StatusUnauthorized)
			return
		}
		busy := make(chan struct{}, 4) // tasks of this client at once
		jobs.ServeHTTPWith(w, r, websocket.Handler{
			OnMessage: func(c *websocket.Conn, t websocket.MessageType, p []byte) {
				task := string(p) // p is valid until OnMessage returns
				busy <- struct{}{}
				go func() {
					defer func() { <-busy }()
					c.WriteMessage(websocket.Text, []byte(work(user, task)))
				}()
			},
		})
	})
}

// Order has tasks done, and returns the results as they come.
func Order(url string, header http.Header, tasks ...string) (done []string, err error) {
	c, err := websocket.Dial(context.Background(), url, &websocket.Options{Header: header})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	for _, task := range tasks {
		if err := c.WriteMessage(websocket.Text, []byte(task)); err != nil {
			return nil, err
		}
	}
	for range tasks {
		_, p, err := c.ReadMessage()
		if err != nil {
			return done, err
		}
		done = append(done, string(p))
	}
	return done, nil
}
