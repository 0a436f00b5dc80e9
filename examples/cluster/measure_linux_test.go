package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/54eee7d7/websocket"
)

// TestMeasure measures what a node costs, for README.md.
func TestMeasure(t *testing.T) {
	if os.Getenv("CLUSTER_MEASURE") != "1" {
		t.Skip("measures, which takes a quiet machine: CLUSTER_MEASURE=1 go test -run Measure -v")
	}
	for _, people := range []int{1, 10} {
		t.Run(fmt.Sprint("Memory", people), func(t *testing.T) {
			const clients = 6000
			nodes := startCluster(t, 2)
			empty, other := nodes[0].resident(t), nodes[1].resident(t)
			fill(t, nodes[:1], clients, people, nil)
			t.Logf("an empty node has %d MiB; %d clients in rooms of %d take %.1f KiB each there, and %.1f KiB each on another node",
				empty>>20, clients, people, float64(nodes[0].resident(t)-empty)/clients/1024, float64(nodes[1].resident(t)-other)/clients/1024)
		})
	}
	for _, size := range []int{1, 3} {
		t.Run(fmt.Sprint("Messages", size), func(t *testing.T) {
			const clients, people, each = 1000, 10, 200
			nodes := []*process{start(t)}
			if size > 1 {
				nodes = startCluster(t, size)
			}
			var got atomic.Int64
			done := make(chan struct{})
			text := []byte(strings.Repeat("x", 100))
			conns := fill(t, nodes, clients, people, func(c *websocket.Conn, talks bool, n int) {
				if got.Add(1) == clients*each {
					close(done)
				}
				if talks && n < each {
					c.WriteMessage(websocket.Text, text)
				}
			})
			before, begin := cpu(t, nodes), time.Now()
			for i := 0; i < clients; i += people {
				conns[i].WriteMessage(websocket.Text, text)
			}
			<-done
			messages := float64(clients / people * each)
			t.Logf("%d nodes: %.0f messages/s; a message to a room of %d takes %.0f µs of processor time in all",
				size, messages/time.Since(begin).Seconds(), people, (cpu(t, nodes)-before)*1e6/messages)
		})
	}
}

// fill connects clients that are welcome, in rooms whose people are spread over the nodes. The
// first of each room talks. said is called for each message with how many its client has got.
func fill(t *testing.T, nodes []*process, clients, people int, said func(c *websocket.Conn, talks bool, n int)) []*websocket.Conn {
	t.Helper()
	var conns []*websocket.Conn
	var served sync.WaitGroup
	t.Cleanup(served.Wait)
	for i := range clients {
		c, err := websocket.Dial(t.Context(), fmt.Sprintf("%schat?room=%d&name=%d", nodes[i%len(nodes)].url, i/people, i), nil)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.CloseNow() })
		conns = append(conns, c)
		welcome, n := make(chan struct{}), 0
		served.Go(func() {
			c.Serve(websocket.Handler{OnMessage: func(c *websocket.Conn, _ websocket.MessageType, p []byte) {
				if strings.HasPrefix(string(p), `{"Type":"welcome"`) {
					close(welcome)
				} else if strings.HasPrefix(string(p), `{"Type":"said"`) {
					n++
					said(c, i%people == 0, n)
				}
			}})
		})
		<-welcome
	}
	return conns
}

// resident returns the memory of the process, in bytes.
func (p *process) resident(t *testing.T) int {
	t.Helper()
	fields := strings.Fields(procfs(t, p, "statm"))
	pages, err := strconv.Atoi(fields[1])
	if err != nil {
		t.Fatal(err)
	}
	return pages * os.Getpagesize()
}

// cpu returns the processor time that the processes have taken, in seconds.
func cpu(t *testing.T, nodes []*process) (sum float64) {
	t.Helper()
	for _, p := range nodes {
		stat := procfs(t, p, "stat")
		fields := strings.Fields(stat[strings.LastIndex(stat, ")"):])
		for _, field := range fields[12:14] { // of the user and of the system, in 1/100 s
			n, err := strconv.Atoi(field)
			if err != nil {
				t.Fatal(err)
			}
			sum += float64(n) / 100
		}
	}
	return sum
}

func procfs(t *testing.T, p *process, name string) string {
	t.Helper()
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/%s", p.cmd.Process.Pid, name))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}
