package before

import (
	"net/http"
	"time"

	"github.com/lxzan/gws"
)

const silence = time.Minute

// Jobs has the work done that its clients ask for.
type Jobs struct {
	gws.BuiltinEventHandler
	work func(user, task string) string
}

func NewJobs(work func(user, task string) string) http.Handler {
	upgrader := gws.NewUpgrader(&Jobs{work: work}, &gws.ServerOption{
		ParallelEnabled:   true,
		ParallelGolimit:   4,
		Recovery:          gws.Recovery,
		CheckUtf8Enabled:  true,
		PermessageDeflate: gws.PermessageDeflate{Enabled: true},
		Authorize: func(r *http.Request, session gws.SessionStorage) bool {
			user, _, ok := r.BasicAuth()
			session.Store("user", user)
			return ok
		},
	})
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		socket, err := upgrader.Upgrade(w, r)
		if err != nil {
			return
		}
		go socket.ReadLoop()
	})
}

func (j *Jobs) OnOpen(socket *gws.Conn) { socket.SetReadDeadline(time.Now().Add(silence)) }

func (j *Jobs) OnPing(socket *gws.Conn, payload []byte) {
	socket.SetReadDeadline(time.Now().Add(silence))
	socket.WritePong(payload)
}

func (j *Jobs) OnMessage(socket *gws.Conn, message *gws.Message) {
	defer message.Close()
	user, _ := socket.Session().Load("user")
	socket.WriteString(j.work(user.(string), string(message.Bytes())))
}

type results struct {
	gws.BuiltinEventHandler
	got chan string
}

func (r *results) OnMessage(socket *gws.Conn, message *gws.Message) {
	defer message.Close()
	r.got <- string(message.Bytes())
}

func (r *results) OnClose(*gws.Conn, error) { close(r.got) }

// Order has tasks done, and returns the results as they come.
func Order(url string, header http.Header, tasks ...string) (done []string, err error) {
	r := &results{got: make(chan string, len(tasks))}
	socket, _, err := gws.NewClient(r, &gws.ClientOption{Addr: url, RequestHeader: header})
	if err != nil {
		return nil, err
	}
	defer socket.WriteClose(1000, nil)
	go socket.ReadLoop()
	for _, task := range tasks {
		if err := socket.WriteString(task); err != nil {
			return nil, err
		}
	}
	for range tasks {
		result, ok := <-r.got
		if !ok {
			return done, gws.ErrConnClosed
		}
		done = append(done, result)
	}
	return done, nil
}
