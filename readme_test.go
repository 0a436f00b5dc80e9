package websocket_test

import (
	"go/ast"
	"go/doc"
	"go/doc/comment"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeCode finds every Go block of README, word for word, in a program or an example that
// tests run.
func TestReadmeCode(t *testing.T) {
	files, err := filepath.Glob("examples/*/main.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range append(files, "example_test.go") {
		all.WriteString("\n" + unindented(t, file))
	}
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(unindented(t, "README.md"), -1)
	if len(blocks) == 0 {
		t.Fatal("README has no Go code")
	}
	for _, block := range blocks {
		if !strings.Contains(all.String(), "\n"+block[1]) {
			t.Errorf("this is in no example:\n%s", block[1])
		}
	}
}

// unindented returns the lines of a file without the tabs at their beginnings.
func unindented(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return regexp.MustCompile(`(?m)^\t+`).ReplaceAllString(string(text), "")
}

// TestLinks follows the links of all pages to files of this repository, and to what the docs of
// the package describe.
func TestLinks(t *testing.T) {
	const docs = "https://pkg.go.dev/github.com/54eee7d7/websocket#"
	known := anchors(t)
	var pages []string
	for _, pattern := range []string{"*.md", ".github/*.md", "*/*/*.md"} {
		found, err := filepath.Glob(pattern)
		if err != nil {
			t.Fatal(err)
		}
		pages = append(pages, found...)
	}
	links := 0
	for _, page := range pages {
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		prose := regexp.MustCompile("(?ms)^```.*?^```$").ReplaceAll(text, nil)
		for _, m := range regexp.MustCompile(`\]\(([^)\s]+)\)`).FindAllStringSubmatch(string(prose), -1) {
			links++
			anchor, ours := strings.CutPrefix(m[1], docs)
			switch {
			case ours && !known[anchor]:
				t.Errorf("%s: the docs have no %s", page, anchor)
			case !strings.Contains(m[1], "://"):
				file, _, _ := strings.Cut(m[1], "#")
				if _, err := os.Stat(filepath.Join(filepath.Dir(page), file)); err != nil {
					t.Errorf("%s: %v", page, err)
				}
			}
		}
	}
	if links == 0 {
		t.Fatal("there are no links")
	}
}

// anchors returns the names of what the docs of the package describe: symbols, methods, fields of
// structs, and sections of the tour.
func anchors(t *testing.T) map[string]bool {
	t.Helper()
	names, err := filepath.Glob("*.go")
	if err != nil {
		t.Fatal(err)
	}
	set := token.NewFileSet()
	var files []*ast.File
	for _, name := range names {
		f, err := parser.ParseFile(set, name, nil, parser.ParseComments)
		if err != nil {
			t.Fatal(err)
		}
		files = append(files, f)
	}
	pkg, err := doc.NewFromFiles(set, files, "github.com/54eee7d7/websocket")
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, b := range pkg.Parser().Parse(pkg.Doc).Content {
		if h, ok := b.(*comment.Heading); ok {
			all[h.DefaultID()] = true
		}
	}
	funcs := func(prefix string, list []*doc.Func) {
		for _, f := range list {
			all[prefix+f.Name] = true
		}
	}
	funcs("", pkg.Funcs)
	for _, typ := range pkg.Types {
		all[typ.Name] = true
		funcs("", typ.Funcs)
		funcs(typ.Name+".", typ.Methods)
		ast.Inspect(typ.Decl, func(n ast.Node) bool {
			if field, ok := n.(*ast.Field); ok {
				for _, name := range field.Names {
					all[typ.Name+"."+name.Name] = name.IsExported()
				}
			}
			return true
		})
	}
	return all
}
