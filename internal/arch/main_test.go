package main

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// raise surveys a package of these files, which come by name and source.
func raise(t *testing.T, files ...string) *house {
	t.Helper()
	dir := t.TempDir()
	for i := 0; i < len(files); i += 2 {
		if err := os.WriteFile(filepath.Join(dir, files[i]), []byte(files[i+1]), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	h, err := survey(dir)
	if err != nil {
		t.Fatal(err)
	}
	return h
}

// expect checks what is not in order.
func (h *house) expect(t *testing.T, want ...string) {
	t.Helper()
	if got := h.faults(); !slices.Equal(got, want) {
		t.Errorf("the faults are\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

func TestDraw(t *testing.T) {
	h := raise(t,
		"roof.go", "package p; func roof() { wall(); window(); floor() }",
		"wall.go", "package p; func wall() { window(); floor() }",
		"window.go", "package p; func window() { wall() }",
		"floor.go", "package p; func floor() {}",
		"shed.go", "package p; func shed() {}",
		"wall_race.go", "//go:build race\n\npackage p; func wall() { roof() }",
		"wall_test.go", "package p; func test() { roof() }",
	)
	const want = `roof.go               1  → floor.go, wall.go, window.go

wall.go               1  → floor.go ⇄ window.go
window.go             1  ⇄ wall.go

floor.go              1
shed.go               1
`
	if got := h.draw(); strings.ReplaceAll(got, " \n", "\n") != want {
		t.Errorf("the house is\n%swant\n%s", got, want)
	}
	h.expect(t,
		"cycle: wall.go: window at line 1 → window.go",
		"cycle: window.go: wall at line 1 → wall.go",
	)
}

// A name that does not fit goes to the next line, and none gets lost.
func TestDrawLong(t *testing.T) {
	var files, names []string
	calls := "package p; func roof() {"
	for c := 'a'; c <= 'i'; c++ {
		name := "a_long_name_" + string(c)
		files = append(files, name+".go", "package p; func "+name+"() {}")
		names = append(names, name+".go")
		calls += name + "();"
	}
	h := raise(t, append(files, "roof.go", calls+"}")...)
	roof, _, _ := strings.Cut(h.draw(), "\n\n")
	for line := range strings.Lines(roof) {
		if len([]rune(strings.TrimRight(line, "\n"))) > 80 {
			t.Errorf("the line %q is too long", line)
		}
	}
	got := strings.Join(strings.Fields(roof), " ")
	if want := "roof.go 1 → " + strings.Join(names, ", "); got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

func TestCycle(t *testing.T) {
	for _, tt := range []struct {
		name  string
		files []string
		want  []string
	}{
		{"three files", []string{
			"a.go", "package p; var a = b",
			"b.go", "package p; const b = d(0)\n\n",
			"c.go", "package p; type d = c; type c int; func (c) m() { _ = a }",
		}, []string{
			"cycle: a.go: b at line 1 → b.go",
			"cycle: b.go: d at line 1 → c.go",
			"cycle: c.go: a at line 1 → a.go",
		}},
		{"method", []string{
			"a.go", "package p; type a struct{}; func f(x a) {\n\nx.m(); x.m() }",
			"b.go", "package p; func (a) m() {}",
		}, []string{
			"cycle: a.go: m at line 3 → b.go",
			"cycle: b.go: a at line 1 → a.go",
		}},
		{"method of an interface", []string{
			"a.go", "package p; func f() { v.m() }",
			"b.go", "package p; var _ = f; var v interface{ m() }",
		}, []string{
			"cycle: a.go: v at line 1 → b.go",
			"cycle: b.go: f at line 1 → a.go",
		}},
		{"field of a generic type", []string{
			"a.go", "package p; type a[T any] struct { b[T] }",
			"b.go", "package p; type b[T any] struct{ n T }; func f(x *c) { x.n++ }",
			"c.go", "package p; type c = a[int]",
		}, []string{
			"cycle: a.go: b at line 1 → b.go",
			"cycle: b.go: b at line 1 → a.go", // the embedded field that leads to n
			"cycle: b.go: c at line 1 → c.go",
			"cycle: c.go: a at line 1 → a.go",
		}},
		{"pointers to what is embedded", []string{
			"a.go", "package p; type a struct { *b }",
			"b.go", "package p; type b struct { *c }; func f(x d) { x.m() }",
			"c.go", "package p; type c struct{}; func (*c) m() {}",
			"d.go", "package p; type d struct { *a }",
		}, []string{
			"cycle: a.go: b at line 1 → b.go",
			"cycle: b.go: b at line 1 → a.go",
			"cycle: b.go: d at line 1 → d.go",
			"cycle: d.go: a at line 1 → a.go",
		}},
		{"none, but the names are alike", []string{
			"a.go", "package p; import \"errors\"; func f(b int) { type c struct{ d int }; _ = c{d: b}; errors.New(string(rune(b))) }",
			"b.go", "package p; var b, c, d = f, 0, 0",
		}, nil},
	} {
		t.Run(tt.name, func(t *testing.T) { raise(t, tt.files...).expect(t, tt.want...) })
	}
}

// What the body of a facade uses does not count; what its parameters are, does.
func TestFacades(t *testing.T) {
	const conn = "package p; type Conn struct{}; var _ frame; func (*Conn) get() {}"
	const body = "(x any) { if c, ok := x.(*Conn); ok { c.get() } }"
	raise(t, "conn.go", conn, "frame.go", "package p; type frame struct{}; func GetFrame"+body).expect(t)
	raise(t, "conn.go", conn, "frame.go", "package p; type frame struct{}; func PutFrame"+body+"; func GetRequest"+body).expect(t)
	for _, src := range []string{
		"func getFrame" + body,
		"func (frame) GetFrame" + body,
		"func GetFrame(*Conn) {}",
	} {
		raise(t, "conn.go", conn, "frame.go", "package p; type frame struct{};\n"+src).expect(t,
			"cycle: conn.go: frame at line 1 → frame.go",
			"cycle: frame.go: Conn at line 2 → conn.go",
		)
	}
}

func TestLines(t *testing.T) {
	for _, tt := range []struct {
		src  string
		want int
	}{
		{"", 0},
		{"\n\n", 0},
		{"// Package p.\npackage p", 1},
		{"package p // p\n\n/* one\n\ntwo */\n\nvar a, b = 1, /* one */\n\t2 // two\n", 3},
		{"package p /* one\n*/; import /*\n*/ \"io\"\n", 3},
		{"package p\nvar s = `one\n\n// two\n`\n", 5},
		{"package p; var a, b = 1, 2\r\n\r\n//line x.go:1\r\nvar c = `\r\n`\r\n", 3},
	} {
		if got := countLines([]byte(tt.src)); got != tt.want {
			t.Errorf("%q has %d lines of code, want %d", tt.src, got, tt.want)
		}
	}
	code := func(n int) string { return "package p\n" + strings.Repeat("var _ int // one\n\n// two\n", n-1) }
	raise(t, "a.go", code(maxLines)).expect(t)
	raise(t, "a.go", code(maxLines+1)).expect(t, "a.go has 451 lines of code, more than 450")
}

func TestFields(t *testing.T) {
	const conn = "package p; type embedded struct { x, y, z int }; type Conn struct { a, b, c, d, e, f, g, h, i, j int; k []int; l struct{ m, n int }; embedded; _, _, _"
	raise(t, "conn.go", conn+", _, _ int }").expect(t)
	raise(t, "conn.go", conn+", _, _, o int }").expect(t, "Conn has 19 fields, more than 18")
	raise(t, "conn.go", conn+", _, _ int; o, p bool }").expect(t, "Conn has 20 fields, more than 18")
}

// The fields of a part are for its own file. Its methods are for all.
func TestParts(t *testing.T) {
	const reader = "package p; type reader struct { n int; tail; m map[int]int }; type tail struct { k int }; func (r *reader) next() int { return r.n }; func (tail) end() {}; func zero() reader { return reader{n: 1} }"
	for _, tt := range []struct {
		name, src string
		want      []string
	}{
		{"methods", "func f(r *reader) { r.next(); r.end(); var _ = []reader{}; *r = reader{}; g := r.next; g() }", nil},
		{"a field that is read", "func f(r *reader) int { return r.n }", []string{"reader.n at line 2"}},
		{"a field that is set", "func f(r *reader) {\nr.n, r.m = 1, nil }", []string{"reader.n at line 3", "reader.m at line 3"}},
		{"the address of a field", "func f(r *reader) *int { return &r.n }", []string{"reader.n at line 2"}},
		{"a literal", "var _ = &reader{n: 1}", []string{"reader.n at line 2"}},
		{"a literal without keys", "var _ = reader{\n1,\ntail{2},\nnil}", []string{"reader.n at line 3", "reader.tail at line 4", "reader.m at line 5"}},
		{"an elided literal", "var _ = []*reader{{n: 1}}", []string{"reader.n at line 2"}},
		{"an elided literal without keys", "var _ = map[int]*reader{0: {1, tail{2}, nil}}", []string{"reader.n at line 2", "reader.tail at line 2", "reader.m at line 2"}},
		{"what a part embeds", "func f(r *reader) int { return r.k }", []string{"reader.tail at line 2"}},
		{"what embeds a part", "type c struct { *reader }; func f(c c) int { c.next(); c.end(); return c.n + c.k + c.reader.n }", []string{"reader.n at line 2", "reader.tail at line 2", "reader.n at line 2"}},
		{"a type of the same kind", "type other reader; func f(o other) int { return o.n }", []string{"reader.n at line 2"}},
		{"a method of a field", "func f(r *reader) { r.tail.end() }", []string{"reader.tail at line 2"}},
		{"other names that are alike", "type writer2 struct { n int }; func f(w writer2, x struct{ m int }) int { return w.n + x.m }", nil},
	} {
		t.Run(tt.name, func(t *testing.T) {
			for i := range tt.want {
				tt.want[i] = "a.go uses " + tt.want[i]
			}
			raise(t, "a.go", "package p\n"+tt.src, "reader.go", reader).expect(t, tt.want...)
		})
	}
}

// What stands in the list of parts is there.
func TestPartsExist(t *testing.T) {
	names, err := filepath.Glob("../../*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, name := range names {
		src, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		all.Write(src)
	}
	for _, part := range parts {
		if !strings.Contains(all.String(), "\ntype "+part+" struct {\n") {
			t.Errorf("there is no %s", part)
		}
	}
}

func TestErrors(t *testing.T) {
	dir := t.TempDir()
	for _, src := range []string{"", "package p; func", "package p; var _ = missing"} {
		if src != "" {
			if err := os.WriteFile(filepath.Join(dir, "a.go"), []byte(src), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := survey(dir); err == nil {
			t.Errorf("no error for %q", src)
		}
	}
}
