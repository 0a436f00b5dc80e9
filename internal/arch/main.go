// Arch draws how the files of a package lean on each other, as a house: a file stands on
// those it uses.
//
//	go run ./internal/arch [-check] [directory]
//
// One file uses another if its code names what is declared there at package level, or a
// method or a field that is declared there. The number next to a file is that of its
// lines of code, without comments and blank lines.
//
// With -check it fails if files use each other in a cycle, if a file is too long, if Conn
// has too many fields, or if a field of one of its parts is used in another file than the
// part's own.
package main

import (
	"cmp"
	"flag"
	"fmt"
	"go/ast"
	"go/build"
	"go/importer"
	"go/parser"
	"go/scanner"
	"go/token"
	"go/types"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"unicode/utf8"
)

const (
	maxLines  = 450 // of code, in a file
	maxFields = 18  // of Conn
)

// The facades are the exported functions that take any stream and recognise a *Conn.
// They live in the files of what they handle, as the API demands, and what their bodies
// use is not held against these files.
var facades = []string{"GetFrame", "PutFrame", "GetRequest"}

// The parts of a Conn that keep their state to themselves: other files call their methods, so
// that what a field means, and when it may change, is to be read in one file.
var parts = []string{"transport", "reader", "writer", "ending", "pinger", "serving"}

func main() {
	check := flag.Bool("check", false, "fail if the house is not in order")
	flag.Parse()
	build.Default.CgoEnabled = false // the standard library is read without a C compiler
	h, err := survey(cmp.Or(flag.Arg(0), "."))
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(2)
	}
	fmt.Print(h.draw())
	if faults := h.faults(); *check && len(faults) > 0 {
		fmt.Fprintf(os.Stderr, "\n%s\n", strings.Join(faults, "\n"))
		os.Exit(1)
	}
}

// A house is the files of a package.
type house struct {
	files  []string // sorted
	lines  map[string]int
	uses   map[string]map[string]use // by the user and the used file: the first use
	fields int                       // of Conn
	inside []use                     // of fields of parts in files that are not theirs
}

// A use is a place in a file that names something in another file.
type use struct {
	pos  token.Pos
	line int
	name string
	file string // where the use is
}

// survey reads the package in dir as it is built on this system, without its tests.
func survey(dir string) (*house, error) {
	p, err := build.ImportDir(dir, 0)
	if err != nil {
		return nil, err
	}
	h := &house{files: p.GoFiles, lines: make(map[string]int), uses: make(map[string]map[string]use)}
	fset := token.NewFileSet()
	var files []*ast.File
	for _, name := range h.files {
		src, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil {
			return nil, err
		}
		file, err := parser.ParseFile(fset, name, src, parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		files = append(files, file)
		h.lines[name] = countLines(src)
		h.uses[name] = make(map[string]use)
	}

	info := &types.Info{
		Types:      make(map[ast.Expr]types.TypeAndValue),
		Uses:       make(map[*ast.Ident]types.Object),
		Selections: make(map[*ast.SelectorExpr]*types.Selection),
	}
	config := types.Config{Importer: importer.ForCompiler(fset, "source", nil)}
	pkg, err := config.Check(p.Name, fset, files, info)
	if err != nil {
		return nil, err
	}
	var exempt []*ast.BlockStmt
	for _, file := range files {
		for _, d := range file.Decls {
			if f, ok := d.(*ast.FuncDecl); ok && f.Recv == nil && f.Body != nil && slices.Contains(facades, f.Name.Name) {
				exempt = append(exempt, f.Body)
			}
		}
	}
	// Only what is declared in no function can be used in another file.
	add := func(pos token.Pos, obj types.Object) {
		if obj.Pkg() != pkg || slices.ContainsFunc(exempt, func(b *ast.BlockStmt) bool { return b.Pos() <= pos && pos < b.End() }) {
			return
		}
		user, used := fset.Position(pos), fset.Position(obj.Pos()).Filename
		old, ok := h.uses[user.Filename][used]
		if user.Filename != used && (!ok || pos < old.pos) {
			h.uses[user.Filename][used] = use{pos, user.Line, obj.Name(), user.Filename}
		}
	}
	private := fieldsOfParts(pkg)
	enter := func(pos token.Pos, field types.Object) {
		user := fset.Position(pos)
		if name := private[field]; name != "" && user.Filename != fset.Position(field.Pos()).Filename {
			h.inside = append(h.inside, use{pos, user.Line, name, user.Filename})
		}
	}
	for id, obj := range info.Uses {
		add(id.Pos(), obj)
		enter(id.Pos(), obj)
	}
	setByPosition(info, enter)
	for sel, s := range info.Selections { // with the embedded fields that lead to a promoted one
		t := s.Recv()
		for _, i := range s.Index()[:len(s.Index())-1] {
			if p, ok := t.Underlying().(*types.Pointer); ok {
				t = p.Elem()
			}
			field := t.Underlying().(*types.Struct).Field(i)
			add(sel.Sel.Pos(), field)
			if s.Kind() == types.FieldVal {
				enter(sel.Sel.Pos(), field)
			}
			t = field.Type()
		}
	}
	slices.SortFunc(h.inside, func(a, b use) int { return cmp.Or(cmp.Compare(a.pos, b.pos), strings.Compare(a.name, b.name)) })
	if conn := pkg.Scope().Lookup("Conn"); conn != nil {
		if s, ok := conn.Type().Underlying().(*types.Struct); ok {
			h.fields = s.NumFields()
		}
	}
	return h, nil
}

// fieldsOfParts returns the fields of the parts, with the names of both.
func fieldsOfParts(pkg *types.Package) map[types.Object]string {
	names := make(map[types.Object]string)
	for _, part := range parts {
		if obj := pkg.Scope().Lookup(part); obj != nil {
			if s, ok := obj.Type().Underlying().(*types.Struct); ok {
				for f := range s.Fields() {
					names[f] = part + "." + f.Name()
				}
			}
		}
	}
	return names
}

// setByPosition calls f with the fields that literals without keys set, which do not name them.
func setByPosition(info *types.Info, f func(token.Pos, types.Object)) {
	for x, tv := range info.Types {
		lit, ok := x.(*ast.CompositeLit)
		if !ok {
			continue
		}
		t := tv.Type
		if p, ok := t.Underlying().(*types.Pointer); ok { // of {} for &T{}
			t = p.Elem()
		}
		if s, ok := t.Underlying().(*types.Struct); ok {
			for i, e := range lit.Elts {
				if _, keyed := e.(*ast.KeyValueExpr); !keyed {
					f(e.Pos(), s.Field(i))
				}
			}
		}
	}
}

// countLines returns how many lines of src hold code.
func countLines(src []byte) int {
	file := token.NewFileSet().AddFile("", -1, len(src))
	var s scanner.Scanner
	s.Init(file, src, nil, 0) // which skips comments
	lines := make(map[int]bool)
	for {
		pos, tok, text := s.Scan()
		if tok == token.EOF {
			return len(lines)
		}
		if tok == token.SEMICOLON && text == "\n" {
			continue // is not there
		}
		first := file.PositionFor(pos, false).Line
		for i := range strings.Count(text, "\n") + 1 {
			lines[first+i] = true
		}
	}
}

// reach returns what each file uses, directly or not.
func (h *house) reach() map[string]map[string]bool {
	reach := make(map[string]map[string]bool)
	for _, a := range h.files {
		reach[a] = make(map[string]bool)
		for b := range h.uses[a] {
			reach[a][b] = true
		}
	}
	for _, via := range h.files {
		for _, a := range h.files {
			if reach[a][via] {
				maps.Copy(reach[a], reach[via])
			}
		}
	}
	return reach
}

// floors returns on which floor each file is: above all that it uses, or with it in a
// cycle.
func (h *house) floors() map[string]int {
	reach, floors := h.reach(), make(map[string]int)
	for range h.files { // as many floors as there are, at most
		for a := range reach {
			for b := range reach[a] {
				if !reach[b][a] {
					floors[a] = max(floors[a], floors[b]+1)
				}
			}
		}
	}
	return floors
}

// draw returns the house from the top to the ground. Those that are in a cycle with a
// file come after a double arrow.
func (h *house) draw() string {
	const margin, width = 24, 80
	reach, floors := h.reach(), h.floors()
	house := make([]string, len(h.files))
	for _, a := range h.files {
		var below, level []string
		for _, b := range slices.Sorted(maps.Keys(h.uses[a])) {
			if reach[b][a] {
				level = append(level, b)
			} else {
				below = append(below, b)
			}
		}
		var text string
		if len(below) > 0 {
			text += " → " + strings.Join(below, ", ")
		}
		if len(level) > 0 {
			text += " ⇄ " + strings.Join(level, ", ")
		}
		row, column := fmt.Sprintf("%-17s %5d ", a, h.lines[a]), margin
		for word := range strings.FieldsSeq(text) {
			if column += 1 + utf8.RuneCountInString(word); column > width {
				row += "\n" + strings.Repeat(" ", margin)
				column = margin + 1 + utf8.RuneCountInString(word)
			}
			row += " " + word
		}
		house[floors[a]] += row + "\n"
	}
	slices.Reverse(house)
	return strings.TrimLeft(strings.Join(house, "\n"), "\n")
}

// faults returns what is not in order.
func (h *house) faults() (faults []string) {
	reach := h.reach()
	for _, a := range h.files {
		for _, b := range slices.Sorted(maps.Keys(h.uses[a])) {
			if reach[b][a] {
				u := h.uses[a][b]
				faults = append(faults, fmt.Sprintf("cycle: %s: %s at line %d → %s", a, u.name, u.line, b))
			}
		}
	}
	for _, a := range h.files {
		if n := h.lines[a]; n > maxLines {
			faults = append(faults, fmt.Sprintf("%s has %d lines of code, more than %d", a, n, maxLines))
		}
	}
	if h.fields > maxFields {
		faults = append(faults, fmt.Sprintf("Conn has %d fields, more than %d", h.fields, maxFields))
	}
	for _, u := range h.inside {
		faults = append(faults, fmt.Sprintf("%s uses %s at line %d", u.file, u.name, u.line))
	}
	return faults
}
