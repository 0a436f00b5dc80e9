package main

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"runtime"
	"sync"
	"time"
)

// roleVar is the environment variable by which the program tells a process that it starts
// from itself what to be.
const roleVar = "WEBSOCKET_BENCH_JOB"

// A job is what such a process is for.
type job struct {
	Role    string // "server" or "load"
	Library string
	Work    work
	Address string // of the server, for the load
}

// A question asks a process to do something, one line of JSON on its standard input.
type question struct {
	Do       string
	N        int
	Duration time.Duration
}

// An answer is what comes back, one line of JSON on its standard output. The first one
// comes unasked, when the process is ready.
type answer struct {
	Error   string `json:",omitempty"`
	Address string `json:",omitempty"`
	Usage   usage
	Counts  counts
}

// roleMain does the job that the environment has for this process, and reports whether
// there was one.
func roleMain() bool {
	text, ok := os.LookupEnv(roleVar)
	if !ok {
		return false
	}
	signal.Ignore(os.Interrupt) // which a terminal sends to all; this process ends with the one that started it
	var j job
	err := json.Unmarshal([]byte(text), &j)
	if err == nil {
		err = allowFiles(uint64(j.Work.Conns) + fileReserve)
	}
	if err == nil {
		switch j.Role {
		case "server":
			err = serverMain(j)
		case "load":
			err = loadMain(j)
		default:
			err = fmt.Errorf("there is no role %q", j.Role)
		}
	}
	if err != nil {
		reply(answer{Error: err.Error()})
		os.Exit(1)
	}
	return true
}

func reply(a answer) error { return json.NewEncoder(os.Stdout).Encode(a) }

// eachQuestion answers by f until the program that asks has ended.
func eachQuestion(f func(question) answer) error {
	d := json.NewDecoder(os.Stdin)
	for {
		var q question
		if err := d.Decode(&q); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if err := reply(f(q)); err != nil {
			return err
		}
	}
}

// A process is one that this program has started from itself, or from another build of
// itself.
type process struct {
	name string
	cmd  *exec.Cmd
	in   io.WriteCloser
	out  *bufio.Reader
	said lastWords
	kill func()
}

// startTime and answerTime bound what is not bounded by the work, and connectTime what each
// connection adds to that.
const (
	startTime   = 60 * time.Second
	answerTime  = 60 * time.Second
	connectTime = time.Millisecond
)

// start starts the program at path on the given processor, or on any if that is negative,
// and waits until it is ready. The process ends when ctx is done.
func start(ctx context.Context, path string, j job, cpu int) (*process, answer, error) {
	text, err := json.Marshal(j)
	if err != nil {
		return nil, answer{}, err
	}
	p := &process{name: j.Role, cmd: exec.CommandContext(ctx, path)}
	p.cmd.Env = append(os.Environ(), roleVar+"="+string(text))
	p.cmd.Stderr = &p.said
	p.kill = sync.OnceFunc(func() { p.cmd.Process.Kill() })
	if p.in, err = p.cmd.StdinPipe(); err != nil {
		return nil, answer{}, err
	}
	out, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, answer{}, err
	}
	p.out = bufio.NewReader(out)
	if err := startOn(p.cmd, cpu); err != nil {
		return nil, answer{}, err
	}
	a, err := p.answer(startTime + time.Duration(j.Work.Conns)*connectTime)
	if err != nil {
		p.stop()
		return nil, answer{}, err
	}
	return p, a, nil
}

// startOn starts cmd on a processor, which the process inherits from the thread that
// starts it.
func startOn(cmd *exec.Cmd, cpu int) error {
	if cpu < 0 {
		return cmd.Start()
	}
	runtime.LockOSThread()
	undo, err := pin(cpu)
	if err != nil {
		runtime.UnlockOSThread()
		return err
	}
	err = cmd.Start()
	undo()
	runtime.UnlockOSThread()
	return err
}

// ask has p do something that takes about as long as q.Duration.
func (p *process) ask(q question) (answer, error) {
	if err := json.NewEncoder(p.in).Encode(q); err != nil {
		return answer{}, p.failure(err)
	}
	return p.answer(q.Duration + answerTime)
}

// answer waits for the answer of p, and kills it if that takes too long.
func (p *process) answer(limit time.Duration) (a answer, err error) {
	timer := time.AfterFunc(limit, p.kill)
	line, err := p.out.ReadBytes('\n')
	if !timer.Stop() {
		return a, p.failure(fmt.Errorf("no answer within %s", limit))
	}
	if err != nil {
		return a, p.failure(err)
	}
	if err := json.Unmarshal(line, &a); err != nil {
		return a, p.failure(err)
	}
	if a.Error != "" {
		return a, p.failure(errors.New(a.Error))
	}
	return a, nil
}

// failure adds to an error what p has printed.
func (p *process) failure(err error) error {
	if said := p.said.String(); said != "" {
		return fmt.Errorf("%s: %w: %s", p.name, err, said)
	}
	return fmt.Errorf("%s: %w", p.name, err)
}

// stop ends p.
func (p *process) stop() {
	p.in.Close()
	p.kill()
	p.cmd.Wait()
}

// lastWords keeps the last kilobyte that is written.
type lastWords struct {
	mu sync.Mutex
	b  []byte
}

func (l *lastWords) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.b = append(l.b, p...)
	l.b = l.b[max(0, len(l.b)-1024):]
	return len(p), nil
}

func (l *lastWords) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.b)
}
