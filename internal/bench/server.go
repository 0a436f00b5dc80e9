package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"fmt"
	"math/big"
	"net"
	"runtime"
	"runtime/debug"
	"time"
)

// usage is what a server has used since it was started, or for memory, what it uses.
type usage struct {
	CPU      time.Duration
	Allocs   uint64
	Bytes    uint64 // allocated
	Writes   int64  // system calls
	Resident int64
	Heap     int64
	Stack    int64
}

// What a server can be asked.
const (
	askStart   = "start"   // for its usage, when what is measured begins
	askEnd     = "end"     // for its usage, when that is over
	askMemory  = "memory"  // for its usage, with all memory given back that is free
	askMessage = "message" // for broadcasts of a message
)

// serverMain is the server's process. It serves one library for one work, and does what
// it is asked on its standard input until that ends.
func serverMain(j job) error {
	lib, err := libraryByName(j.Library)
	if err != nil {
		return err
	}
	freeNbio()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	address := l.Addr().String()
	if j.Work.TLS && !lib.tls {
		config, err := serverTLS()
		if err != nil {
			return err
		}
		l = tls.NewListener(l, config)
	}
	shout := lib.serve(l, j.Work)
	message := payload(j.Work.Size)

	if err := reply(answer{Address: address}); err != nil {
		return err
	}
	return eachQuestion(func(q question) answer {
		switch q.Do {
		case askMessage:
			for range q.N {
				shout(message)
			}
			return answer{}
		case askStart:
			runtime.GC()
			u := allocated()
			u.Writes = writeCalls()
			u.CPU = cpuTime()
			return answer{Usage: u}
		case askEnd:
			cpu, writes := cpuTime(), writeCalls()
			u := allocated()
			u.CPU, u.Writes = cpu, writes
			return answer{Usage: u}
		case askMemory:
			runtime.GC() // twice, for what sync.Pools hold
			debug.FreeOSMemory()
			u := allocated()
			u.Resident = resident()
			return answer{Usage: u}
		}
		return answer{Error: fmt.Sprintf("a server does not know how to %q", q.Do)}
	})
}

// allocated returns what the runtime knows.
func allocated() usage {
	var m runtime.MemStats
	runtime.ReadMemStats(&m)
	return usage{Allocs: m.Mallocs, Bytes: m.TotalAlloc, Heap: int64(m.HeapAlloc), Stack: int64(m.StackInuse)}
}

// serverTLS makes a certificate that nobody but this program's clients will trust.
func serverTLS() (*tls.Config, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return nil, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		Subject:      pkix.Name{CommonName: "benchmark"},
		NotBefore:    time.Now().Add(-time.Hour),
		NotAfter:     time.Now().Add(24 * time.Hour),
	}
	certificate, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return nil, err
	}
	return &tls.Config{
		Certificates: []tls.Certificate{{Certificate: [][]byte{certificate}, PrivateKey: key}},
		MinVersion:   tls.VersionTLS13,
		NextProtos:   []string{"http/1.1"},
	}, nil
}
