package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// A build is this program with another checkout of this library in it.
type build struct {
	path    string // of the executable
	version string // of the checkout
}

// buildWith builds this program, whose sources are in the current directory, with the
// library that is in the directory checkout. What it writes is all in dir.
func buildWith(ctx context.Context, checkout, dir string) (*build, error) {
	checkout, err := filepath.Abs(checkout)
	if err != nil {
		return nil, err
	}
	for _, name := range []string{"go.mod", "go.sum"} {
		text, err := os.ReadFile(name)
		if err != nil {
			return nil, err
		}
		if err := os.WriteFile(filepath.Join(dir, name), text, 0o644); err != nil {
			return nil, err
		}
	}
	mod := filepath.Join(dir, "go.mod")
	b := &build{
		path:    filepath.Join(dir, "bench.exe"), // Windows starts no file without the extension
		version: describe(checkout),
	}
	for _, args := range [][]string{
		{"mod", "edit", "-replace=" + ourModule + "=" + checkout, mod},
		{"build", "-modfile=" + mod, "-o", b.path, ourModule + "/internal/bench"},
	} {
		if said, err := exec.CommandContext(ctx, "go", args...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("go %s: %w: %s", args[0], err, said)
		}
	}
	return b, nil
}

// describe returns the commit of the repository that dir belongs to.
func describe(dir string) string {
	name, err := exec.Command("git", "-C", dir, "describe", "--always", "--dirty").Output()
	if err != nil {
		return "unknown"
	}
	return strings.TrimSpace(string(name))
}

// addBuild has b measured with each of our libraries, and right after it.
func (p *plan) addBuild(b *build) {
	var all []library
	for _, l := range p.libraries {
		all = append(all, l)
		if l.ours {
			l.build = b
			all = append(all, l)
		}
	}
	p.libraries = all
}
