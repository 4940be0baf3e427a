package main

import (
	"fmt"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// effect is what a mutant does to the value of its expression.
type effect string

const (
	alwaysFalse effect = "False"
	alwaysTrue  effect = "True"
	negated     effect = "Not"
)

// mutant is one change of one condition.
type mutant struct {
	// ID is unique in the package and greater than 0.
	ID       int
	File     string // its name without folder
	Line     int
	Function string
	// Change describes the mutant in one line.
	Change string

	effect effect
	// guard numbers the condition it belongs to: one condition can have several
	// mutants.
	guard int
	// first and last are the lines that -since compares with changed lines.
	first, last int
	// start and end are the offsets of the expression in the file.
	start, end int
	endLine    int
	// tagged is set for a case value of a switch with a tag.
	tagged *taggedSwitch
}

// taggedSwitch is a switch that is rewritten without its tag, so that each case
// becomes a comparison that a helper can wrap.
type taggedSwitch struct {
	line  int
	tag   string // the variable that cases are compared with
	edits []edit // what removes the tag
	// skipped is set when it does not compile without its tag.
	skipped bool
}

// source is one Go file of the package with its mutants.
type source struct {
	name    string
	text    []byte
	lines   []string
	mutants []*mutant
	tagged  []*taggedSwitch
}

// finder collects the mutants of one file.
type finder struct {
	*source
	set      *token.FileSet
	function string
	guards   int
	// covered is the end of the latest guard. Operands before it are part of that
	// guard.
	covered token.Pos
	// elseIfs are the if statements that continue a chain.
	elseIfs map[*ast.IfStmt]bool
	// nested are operands that are part of a longer chain of the same operator.
	nested map[ast.Expr]bool
}

// findMutants reads the named files of a folder. Mutants are numbered in source
// order, so unchanged source has the same numbers in every run.
func findMutants(folder string, files []string) ([]*source, error) {
	var all []*source
	guards, id := 0, 0
	for _, name := range files {
		text, err := os.ReadFile(filepath.Join(folder, name))
		if err != nil {
			return nil, err
		}
		set := token.NewFileSet()
		file, err := parser.ParseFile(set, name, text, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, err
		}
		if ast.IsGenerated(file) {
			continue
		}
		f := &finder{
			source: &source{name: name, text: text, lines: strings.Split(string(text), "\n")},
			set:    set, guards: guards,
			elseIfs: make(map[*ast.IfStmt]bool), nested: make(map[ast.Expr]bool),
		}
		f.file(file)
		guards = f.guards
		slices.SortStableFunc(f.mutants, func(a, b *mutant) int { return a.start - b.start })
		for _, m := range f.mutants {
			id++
			m.ID = id
		}
		all = append(all, f.source)
	}
	return all, nil
}

// file visits each declaration with the name that its mutants are listed under.
func (f *finder) file(file *ast.File) {
	for _, declaration := range file.Decls {
		switch d := declaration.(type) {
		case *ast.FuncDecl:
			f.function = functionName(d)
			ast.Inspect(d, f.visit)
		case *ast.GenDecl:
			if d.Tok != token.VAR {
				continue // conditions of constants must stay constant
			}
			for _, spec := range d.Specs {
				f.function = spec.(*ast.ValueSpec).Names[0].Name //nolint:forcetypeassert // var declares nothing else
				ast.Inspect(spec, f.visit)
			}
		}
	}
}

// functionName returns Function or Type.Method.
func functionName(d *ast.FuncDecl) string {
	if d.Recv == nil || len(d.Recv.List) == 0 {
		return d.Name.Name
	}
	receiver := d.Recv.List[0].Type
	for {
		switch t := receiver.(type) {
		case *ast.StarExpr:
			receiver = t.X
		case *ast.ParenExpr:
			receiver = t.X
		case *ast.IndexExpr:
			receiver = t.X
		case *ast.IndexListExpr:
			receiver = t.X
		case *ast.Ident:
			return t.Name + "." + d.Name.Name
		default:
			return d.Name.Name
		}
	}
}

func (f *finder) visit(node ast.Node) bool {
	switch n := node.(type) {
	case *ast.GenDecl:
		return n.Tok != token.CONST
	case *ast.IfStmt:
		f.ifStatement(n)
	case *ast.SwitchStmt:
		f.switchStatement(n)
	case *ast.BinaryExpr:
		if n.Op == token.LAND || n.Op == token.LOR {
			f.operands(n)
		}
	}
	return true
}

func (f *finder) ifStatement(n *ast.IfStmt) {
	inChain := f.elseIfs[n]
	if next, is := n.Else.(*ast.IfStmt); is {
		f.elseIfs[next] = true
		inChain = true
	}
	cond := f.show(n.Cond.Pos(), n.Cond.End())
	leaves := leaving(n.Body)
	m := f.guard(n.Cond)
	switch {
	case n.Else == nil || inChain || leaves != "":
		m.effect = alwaysFalse
		m.Change = fmt.Sprintf("removed: if %s { %s… }", cond, leaves)
	default:
		m.effect = negated
		m.Change = fmt.Sprintf("inverted: if %s { … } else { … }", cond)
	}
	if leaves != "" {
		m.last = f.line(n.Body.End())
	}
}

// leaving returns the keyword that ends a block early, such as "return ", or "".
func leaving(block *ast.BlockStmt) string {
	if len(block.List) == 0 {
		return ""
	}
	switch last := block.List[len(block.List)-1].(type) {
	case *ast.ReturnStmt:
		return "return "
	case *ast.BranchStmt:
		return last.Tok.String() + " "
	case *ast.ExprStmt:
		call, is := last.X.(*ast.CallExpr)
		if !is {
			return ""
		}
		if name, is := call.Fun.(*ast.Ident); is && name.Name == "panic" {
			return "panic"
		}
	}
	return ""
}

func (f *finder) switchStatement(n *ast.SwitchStmt) {
	var tagged *taggedSwitch
	if n.Tag != nil {
		if tagged = f.taggedSwitch(n); tagged == nil {
			return
		}
	}
	for _, clause := range n.Body.List {
		for _, value := range clause.(*ast.CaseClause).List { //nolint:forcetypeassert // a switch holds nothing else
			m := f.guard(value)
			m.effect, m.tagged = alwaysFalse, tagged
			m.Change = "removed: case " + f.show(value.Pos(), value.End())
		}
	}
}

// taggedSwitch plans the edits that remove the tag of a switch. It returns nil if
// the switch has no cases, or has both an init statement and a tag other than a
// plain variable.
func (f *finder) taggedSwitch(n *ast.SwitchStmt) *taggedSwitch {
	values := 0
	for _, clause := range n.Body.List {
		values += len(clause.(*ast.CaseClause).List) //nolint:forcetypeassert // a switch holds nothing else
	}
	_, plain := n.Tag.(*ast.Ident)
	if values == 0 || n.Init != nil && !plain {
		return nil
	}
	start, end := f.offset(n.Tag.Pos()), f.offset(n.Tag.End())
	tagged := &taggedSwitch{line: f.line(n.Tag.Pos())}
	if n.Init == nil {
		tagged.tag = fmt.Sprintf("mutantTag%d", start)
		tagged.edits = []edit{{start, start, tagged.tag + " := "}, {end, end, "; "}}
	} else {
		tagged.tag = string(f.text[start:end])
		tagged.edits = []edit{{start, end, "true"}}
	}
	f.tagged = append(f.tagged, tagged)
	return tagged
}

// operands adds a mutant for each operand of a chain such as a && b && c.
func (f *finder) operands(n *ast.BinaryExpr) {
	if f.nested[n] {
		return
	}
	if n.Pos() >= f.covered {
		f.guards++
		f.covered = n.End()
	}
	whole := f.show(n.Pos(), n.End())
	for _, x := range f.chain(n, n.Op) {
		m := f.add(x)
		m.effect = alwaysFalse
		if n.Op == token.LAND {
			m.effect = alwaysTrue
		}
		m.Change = fmt.Sprintf("dropped: %s of %s", f.show(x.Pos(), x.End()), whole)
	}
}

// chain returns the operands of nested uses of one operator.
func (f *finder) chain(x ast.Expr, operator token.Token) []ast.Expr {
	n, is := ast.Unparen(x).(*ast.BinaryExpr)
	if !is || n.Op != operator {
		return []ast.Expr{x}
	}
	f.nested[n] = true
	return append(f.chain(n.X, operator), f.chain(n.Y, operator)...)
}

// guard adds the mutant of a whole condition.
func (f *finder) guard(x ast.Expr) *mutant {
	f.guards++
	f.covered = x.End()
	return f.add(x)
}

func (f *finder) add(x ast.Expr) *mutant {
	m := &mutant{
		File: f.name, Line: f.line(x.Pos()), Function: f.function, guard: f.guards,
		first: f.line(x.Pos()), last: f.line(x.End()), endLine: f.line(x.End()),
		start: f.offset(x.Pos()), end: f.offset(x.End()),
	}
	f.mutants = append(f.mutants, m)
	return m
}

func (f *finder) line(p token.Pos) int   { return f.set.PositionFor(p, false).Line }
func (f *finder) offset(p token.Pos) int { return f.set.PositionFor(p, false).Offset }

// show returns source text in one line, shortened where it is long.
func (f *finder) show(from, to token.Pos) string {
	text := strings.Join(strings.Fields(string(f.text[f.offset(from):f.offset(to)])), " ")
	if runes := []rune(text); len(runes) > 100 {
		return string(runes[:100]) + "…"
	}
	return text
}
