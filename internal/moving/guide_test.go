package moving

import (
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
)

func read(t *testing.T, name string) string {
	t.Helper()
	text, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func guide(t *testing.T) string { return read(t, "../../.github/MIGRATING.md") }

// TestGuideCode finds every Go block of the guide, word for word, in a program.
func TestGuideCode(t *testing.T) {
	files, err := filepath.Glob("*/*.go")
	if err != nil {
		t.Fatal(err)
	}
	var all strings.Builder
	for _, file := range files {
		all.WriteString("\n" + read(t, file))
	}
	blocks := regexp.MustCompile("(?ms)^```go\n(.*?)^```$").FindAllStringSubmatch(guide(t), -1)
	if len(blocks) == 0 {
		t.Fatal("the guide has no Go code")
	}
	for _, block := range blocks {
		if !strings.Contains(all.String(), "\n"+block[1]) {
			t.Errorf("this is in no program:\n%s", block[1])
		}
	}
}

// TestGuideLines counts the lines of programs of which the guide says how many there are.
func TestGuideLines(t *testing.T) {
	links := regexp.MustCompile(`\]\(\.\./internal/moving/(\w+/\w+\.go)\)\s\((\d+) lines\)`).FindAllStringSubmatch(guide(t), -1)
	if len(links) != 10 {
		t.Errorf("the guide counts the lines of %d programs, not of 10", len(links))
	}
	for _, m := range links {
		if n := strings.Count(read(t, m[1]), "\n"); strconv.Itoa(n) != m[2] {
			t.Errorf("%s has %d lines, not %s", m[1], n, m[2])
		}
	}
}

// The packages of each library. Names in those behind the first are written with the package.
var libraries = [][]string{
	{"github.com/gorilla/websocket"},
	{"github.com/coder/websocket", "github.com/coder/websocket/wsjson"},
	{"github.com/lxzan/gws"},
	{"github.com/gobwas/ws", "github.com/gobwas/ws/wsutil", "github.com/gobwas/ws/wsflate"},
	{"golang.org/x/net/websocket"},
}

// TestGuideNames compares the tables with what the packages export: a name in the left column is one
// of theirs, one in the right column is ours, and none of theirs is missing.
func TestGuideNames(t *testing.T) {
	ours := map[string]bool{}
	for name := range exported(t, "github.com/54eee7d7/websocket") {
		ours[name] = true
		_, part, _ := strings.Cut(name, ".") // as in composite literals, and of variables
		ours[part] = true
	}
	for name := range strings.FieldsSeq( // of net/http
		"DialContext DialTLSContext ErrorLog Jar Proxy ReadHeaderTimeout TLSClientConfig TLSConfig") {
		ours[name] = true
	}
	code := regexp.MustCompile("`[^`]*`")
	theirName := regexp.MustCompile("^`((?:ws\\w+\\.)?[A-Z][\\w.]*\\*?|ws\\w+\\.\\*)`$")
	ourName := regexp.MustCompile(`(?:\b(?:Options|Conn|Server|Request|Deflate|Handler|CloseError|HandshakeError)\.)?\b[A-Z]\w+`)
	foreign := regexp.MustCompile(`\b(?:http|os|io|net|errors|strings|slices|context|sync|bufio)\.\w+|r\.Header\.Get|"[^"]*"`)

	_, text, _ := strings.Cut(guide(t), "\n## From ")
	sections := strings.Split(text, "\n## From ")
	if len(sections) != len(libraries) {
		t.Fatalf("the guide has tables of %d libraries, not of %d", len(sections), len(libraries))
	}
	for i, packages := range libraries {
		section, _, _ := strings.Cut(sections[i], "\n## ")
		if want := "\nOf " + version(t, packages[0]); !strings.Contains(section, want) {
			t.Errorf("the section of %s does not say %q", packages[0], want)
		}
		theirs := exported(t, packages...)
		listed := map[string]bool{}
		for line := range strings.Lines(section) {
			there, here, ok := strings.Cut(line, " | ")
			if !strings.HasPrefix(line, "| ") || !ok {
				continue
			}
			for _, m := range code.FindAllString(there, -1) {
				if m := theirName.FindStringSubmatch(m); m != nil && !list(listed, theirs, m[1]) {
					t.Errorf("%s has no %s", packages[0], m[1])
				}
			}
			for _, m := range code.FindAllString(here, -1) {
				for _, name := range ourName.FindAllString(foreign.ReplaceAllString(m, ""), -1) {
					if !ours[name] {
						t.Errorf("here is no %s: %s", name, line)
					}
				}
			}
		}
		parts := map[string]bool{} // the types that have a part which is listed
		for name := range listed {
			parts[theirs[name]] = true
		}
		for name, typ := range theirs {
			switch {
			case listed[name], parts[name]: // a type may be there by its parts
			case typ != "" && listed[typ] && !parts[typ]: // and they by it
			case strings.HasSuffix(name, ".Error"), strings.HasSuffix(name, ".String"):
			default:
				t.Errorf("the table of %s does not have %s", packages[0], name)
			}
		}
	}
}

// list adds the names that a pattern stands for, and reports whether there are any.
func list(listed map[string]bool, names map[string]string, pattern string) (ok bool) {
	prefix, star := strings.CutSuffix(pattern, "*")
	for name := range names {
		if name == pattern || star && strings.HasPrefix(name, prefix) {
			listed[name] = true
			ok = true
		}
	}
	return ok
}

// version returns the version of the module that has a package.
func version(t *testing.T, path string) string {
	t.Helper()
	for line := range strings.Lines(read(t, "go.mod")) {
		if f := strings.Fields(line); len(f) == 2 && strings.HasPrefix(path+"/", f[0]+"/") {
			return f[1]
		}
	}
	t.Fatalf("go.mod has no %s", path)
	return ""
}

// exported returns the names that packages export, and the types that methods and fields belong to. Their
// names stand behind that of the type, and names of packages after the first stand behind the package.
func exported(t *testing.T, packages ...string) map[string]string {
	t.Helper()
	all := map[string]string{}
	for i, p := range packages {
		out, err := exec.Command("go", "list", "-f", `{{.Dir}}{{range .GoFiles}}{{"\n"}}{{.}}{{end}}`, p).Output()
		if err != nil {
			t.Fatal(err)
		}
		dir, names, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
		set := token.NewFileSet()
		var files []*ast.File
		for name := range strings.SplitSeq(names, "\n") {
			f, err := parser.ParseFile(set, filepath.Join(dir, name), nil, 0)
			if err != nil {
				t.Fatal(err)
			}
			files = append(files, f)
		}
		pkg, err := doc.NewFromFiles(set, files, p)
		if err != nil {
			t.Fatal(err)
		}
		prefix := ""
		if i > 0 {
			prefix = pkg.Name + "."
		}
		add := func(typ, name string) {
			switch {
			case !ast.IsExported(name):
			case typ == "":
				all[prefix+name] = ""
			default:
				all[prefix+typ+"."+name] = prefix + typ
			}
		}
		values := func(list []*doc.Value) {
			for _, v := range list {
				for _, name := range v.Names {
					add("", name)
				}
			}
		}
		funcs := func(typ string, list []*doc.Func) {
			for _, f := range list {
				add(typ, f.Name)
			}
		}
		values(pkg.Consts)
		values(pkg.Vars)
		funcs("", pkg.Funcs)
		for _, typ := range pkg.Types {
			add("", typ.Name)
			values(typ.Consts)
			values(typ.Vars)
			funcs("", typ.Funcs)
			funcs(typ.Name, typ.Methods)
			for _, name := range fields(typ.Decl) {
				add(typ.Name, name)
			}
		}
	}
	return all
}

// fields returns the names of the fields of a struct, or of the methods of an interface.
func fields(decl *ast.GenDecl) (names []string) {
	var list *ast.FieldList
	switch typ := decl.Specs[0].(*ast.TypeSpec).Type.(type) {
	case *ast.StructType:
		list = typ.Fields
	case *ast.InterfaceType:
		list = typ.Methods
	default:
		return nil
	}
	for _, field := range list.List {
		for _, name := range field.Names {
			names = append(names, name.Name)
		}
	}
	return names
}
