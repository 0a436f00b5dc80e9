//go:build unix

package interop

import (
	"context"
	"encoding/json"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
)

// pageHTML runs page.wasm with the arguments in ARGS, and sends what that prints.
const pageHTML = `<!DOCTYPE html>
<script src="wasm_exec.js"></script>
<script>
	const lines = [];
	const end = (line) => fetch("/printed", {method: "POST", body: lines.concat(line).join("\n") + "\n"});
	console.log = (line) => lines.push(line);
	const go = new Go();
	go.argv = ARGS;
	go.env = {WEBSOCKET_PAGE: "ws://" + location.host};
	go.exit = (code) => end(code === 0 ? "PASS" : "FAIL");
	WebAssembly.instantiateStreaming(fetch("page.wasm"), go.importObject).then(({instance}) => go.run(instance)).catch(end);
</script>`

// TestBrowserPage has Chromium run the client for pages.
func TestBrowserPage(t *testing.T) {
	browser := installed(t, []program{
		{name: "Chromium", command: []string{"chromium"}, needed: needed{[]string{"chromium", "--version"}, "Chromium (Debian: chromium)"}},
	})[0]
	dir, support := buildPage(t)
	args, err := json.Marshal(append([]string{"page.wasm"}, pageTests...))
	if err != nil {
		t.Fatal(err)
	}
	printed := make(chan []byte, 1)
	mux := http.NewServeMux()
	mux.HandleFunc("/{$}", func(w http.ResponseWriter, _ *http.Request) {
		io.WriteString(w, strings.Replace(pageHTML, "ARGS", string(args), 1))
	})
	mux.HandleFunc("/wasm_exec.js", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(support, "wasm_exec.js"))
	})
	mux.HandleFunc("/page.wasm", func(w http.ResponseWriter, r *http.Request) {
		http.ServeFile(w, r, filepath.Join(dir, "page.wasm"))
	})
	mux.HandleFunc("/printed", func(_ http.ResponseWriter, r *http.Request) {
		b, _ := io.ReadAll(r.Body)
		printed <- b
	})
	url := startPageServer(t, mux)

	ctx, cancel := context.WithTimeout(t.Context(), 3*timeout)
	defer cancel()
	home := t.TempDir()
	cmd := exec.CommandContext(ctx, browser.command[0],
		"--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-breakpad", "--no-first-run",
		"--disable-background-networking", "--disable-component-update", "--disable-sync",
		"--user-data-dir="+home, "--remote-debugging-port=0", url)
	cmd.Env = append(os.Environ(), "HOME="+home)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	quiet := make(chan struct{})
	go func() {
		defer close(quiet)
		io.Copy(io.Discard, stderr)
	}()
	defer func() {
		cmd.Cancel()
		<-quiet // the last process of the group has ended
		cmd.Wait()
	}()
	select {
	case out := <-printed:
		checkPage(t, out, nil)
	case <-ctx.Done():
		t.Error("the page does not come to an end")
	}
}
