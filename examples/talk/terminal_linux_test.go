package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"
	"unsafe"

	"github.com/54eee7d7/websocket"
)

// openTerminal returns a terminal, and the end of it at which its user sits.
func openTerminal(t *testing.T) (terminal, user *os.File) {
	t.Helper()
	user, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Skip(err)
	}
	t.Cleanup(func() { user.Close() })
	conn, err := user.SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var number, locked int32
	control := func(request uintptr, arg *int32) {
		t.Helper()
		var errno syscall.Errno
		err := conn.Control(func(fd uintptr) {
			_, _, errno = syscall.Syscall(syscall.SYS_IOCTL, fd, request, uintptr(unsafe.Pointer(arg)))
		})
		if err != nil || errno != 0 {
			t.Fatal(err, errno)
		}
	}
	control(syscall.TIOCSPTLCK, &locked)
	control(syscall.TIOCGPTN, &number)
	terminal, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", number), os.O_RDWR|syscall.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { terminal.Close() })
	return terminal, user
}

// A user who types sees a prompt, but never on standard output, and only where it is seen.
func TestPrompt(t *testing.T) {
	t.Parallel()
	for name, seen := range map[string]bool{"standard error is a terminal": true, "standard error is a pipe": false} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			url, ends := serve(t, websocket.Handler{
				OnOpen: func(c *websocket.Conn) { c.WriteMessage(websocket.Text, []byte("welcome")) },
			})
			terminal, user := openTerminal(t)
			var stderr bytes.Buffer
			cmd := command(t, url)
			cmd.Stdin, cmd.Stderr = terminal, &stderr
			if seen {
				cmd.Stderr = terminal
			}
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			terminal.Close()
			welcome := make([]byte, len("welcome\n"))
			if _, err := io.ReadFull(stdout, welcome); err != nil || string(welcome) != "welcome\n" {
				t.Errorf("standard output has %q, %v", welcome, err)
			}
			user.SetDeadline(time.Now().Add(timeout))
			io.WriteString(user, "\x04") // Ctrl-D
			shown, _ := io.ReadAll(user) // up to an error, when nobody has the terminal any more
			if rest, err := io.ReadAll(stdout); len(rest) > 0 || err != nil {
				t.Errorf("standard output then has %q, %v", rest, err)
			}
			if err := cmd.Wait(); err != nil {
				t.Error(err)
			}
			const erase = "\r\x1b[K"
			want, got := normal, stderr.String()
			if seen {
				want = erase + "> " + erase + erase + "> " + erase + normal
				got = strings.ReplaceAll(string(shown), "\r\n", "\n")
			}
			if got != want {
				t.Errorf("standard error has %q, want %q", got, want)
			}
			closedWith(t, ends, websocket.CloseNormal)
		})
	}
}
