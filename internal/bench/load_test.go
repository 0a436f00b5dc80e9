package main

import (
	"bufio"
	"bytes"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"testing"
)

// The request is one that a server of the same origin accepts, about as long as a browser's.
func TestRequest(t *testing.T) {
	for _, test := range []struct {
		w             work
		origin, offer string
	}{
		{work{}, "http://localhost", "permessage-deflate; client_max_window_bits"},
		{work{TLS: true}, "https://localhost", "permessage-deflate; client_max_window_bits"},
		{work{Deflate: true}, "http://localhost", "permessage-deflate; server_no_context_takeover; client_no_context_takeover"},
	} {
		b := requestFor(test.w)
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		if err != nil {
			t.Fatal(err)
		}
		if got := r.Header.Get("Origin"); got != test.origin {
			t.Errorf("the origin is %q, want %q", got, test.origin)
		}
		if u, err := url.Parse(test.origin); err != nil || u.Host != r.Host {
			t.Errorf("the host is %q, and the origin %q", r.Host, test.origin)
		}
		if got := r.Header.Get("Sec-WebSocket-Extensions"); got != test.offer {
			t.Errorf("the offer is %q, want %q", got, test.offer)
		}
		if len(b) < 450 || len(b) > 600 {
			t.Errorf("the request has %d bytes", len(b))
		}
	}
}

// Where there are many clients, some connect from other addresses, so that ports do not run out.
func TestSource(t *testing.T) {
	if err := (work{Conns: perAddress + 1}).fits(); err != nil {
		t.Skip(err)
	}
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer server.Close()
	rawServerOnce := func() (from string) {
		c, err := server.Accept()
		if err != nil {
			return err.Error()
		}
		defer c.Close()
		if _, err := http.ReadRequest(bufio.NewReader(c)); err != nil {
			return err.Error()
		}
		io.WriteString(c, rawResponse)
		from, _, _ = net.SplitHostPort(c.RemoteAddr().String())
		return from
	}
	l := &load{job: job{Address: server.Addr().String()}, request: requestFor(work{})}
	for i, want := range map[int]string{0: "127.0.0.1", perAddress - 1: "127.0.0.1", perAddress: "127.0.0.2", 2*perAddress - 1: "127.0.0.2"} {
		from := make(chan string, 1)
		go func() { from <- rawServerOnce() }()
		c, err := l.shake(i)
		if err != nil {
			t.Fatal(err)
		}
		defer c.Close()
		if got := <-from; got != want {
			t.Errorf("client %d connects from %s, want %s", i, got, want)
		}
	}
	if got, want := source(256*perAddress).IP.String(), "127.0.1.1"; got != want {
		t.Errorf("the address is %s, want %s", got, want)
	}
}

// What a machine cannot do is an error that says why, before anything is measured.
func TestFits(t *testing.T) {
	if !canMeasure {
		t.Skip("the limits of this system are not known")
	}
	if err := (work{Conns: 10}).fits(); err != nil {
		t.Errorf("ten connections: %v", err)
	}
	w := work{Kind: idle, Conns: 1 << 30}
	if err := w.fits(); err == nil || !strings.Contains(err.Error(), "files") {
		t.Errorf("%s: %v", w, err)
	}
	if free := freeMemory(); free < 1<<20 || free > 1<<50 {
		t.Errorf("%d bytes of memory are free", free)
	}
}

// Every nth client is touched. A ping that is in the way is passed over, and a connection that
// the server has closed is an error.
func TestTouch(t *testing.T) {
	l := &load{job: job{Work: work{Size: 10, InFlight: 1}}}
	if err := l.prepare(); err != nil {
		t.Fatal(err)
	}
	var servers []net.Conn
	touched := make(chan int, 100)
	for i := range 9 {
		c, server := net.Pipe()
		defer c.Close()
		defer server.Close()
		l.clients = append(l.clients, &client{Conn: c})
		servers = append(servers, server)
		go func() {
			got := make([]byte, l.frame)
			for {
				if _, err := io.ReadFull(server, got); err != nil {
					return
				}
				touched <- i
				server.Write(append([]byte{0x89, 0}, l.want...))
			}
		}()
	}
	for n, want := range map[int]int{1: 9, 4: 3, 9: 1, 100: 1} {
		a, err := l.touch(n)
		if err != nil || a.Messages != int64(want) || len(touched) != want || a.P50 <= 0 || a.P99 < a.P50 {
			t.Errorf("every client of %d: %+v, and %d were touched, want %d: %v", n, a, len(touched), want, err)
		}
		for range len(touched) {
			if i := <-touched; i%n != 0 {
				t.Errorf("every client of %d: %d was touched", n, i)
			}
		}
	}
	servers[4].Close()
	if _, err := l.touch(1); err == nil {
		t.Error("a connection that is closed is taken to live")
	}
	if _, err := l.touch(0); err == nil {
		t.Error("there is a client number 0")
	}
}

// Of the clients of a sparse work one in a hundred is active, and at least one is.
func TestActive(t *testing.T) {
	for conns, want := range map[int]int{1: 1, 100: 1, 101: 2, 50_000: 500} {
		w := work{Kind: sparse, Conns: conns}
		if got := w.active(); got != want {
			t.Errorf("%d of %d are active, want %d", got, conns, want)
		}
		if last := (w.active() - 1) * w.step(); last >= conns {
			t.Errorf("client %d of %d is active", last, conns)
		}
		w.Kind = echo
		if got := w.active(); got != conns {
			t.Errorf("%d of %d echo", got, conns)
		}
	}
}
