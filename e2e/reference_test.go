package e2e

import (
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// What the README's reference says is held against the source: what a Caddyfile
// option is called is known nowhere else.

// firsts are the first words of the first column of a table, without backquotes.
func (r readme) firsts(t *testing.T, heading string) []string {
	t.Helper()
	require.NotEmpty(t, r.tables[heading], "a table below %q", heading)
	var firsts []string
	for _, row := range r.tables[heading] {
		firsts = append(firsts, strings.Fields(strings.Trim(row[0], "`"))[0])
	}
	return firsts
}

func source(t *testing.T, path string) *ast.File {
	t.Helper()
	file, err := parser.ParseFile(token.NewFileSet(), "../"+path, nil, 0)
	require.NoError(t, err)
	return file
}

// stringOf is the value of a string in the source.
func stringOf(e ast.Expr) (string, bool) {
	literal, ok := e.(*ast.BasicLit)
	if !ok || literal.Kind != token.STRING {
		return "", false
	}
	value, err := strconv.Unquote(literal.Value)
	return value, err == nil
}

// function finds a method, written Receiver.name.
func function(t *testing.T, file *ast.File, name string) *ast.FuncDecl {
	t.Helper()
	for _, declaration := range file.Decls {
		f, ok := declaration.(*ast.FuncDecl)
		if !ok || f.Recv == nil {
			continue
		}
		receiver := f.Recv.List[0].Type
		if pointer, ok := receiver.(*ast.StarExpr); ok {
			receiver = pointer.X
		}
		if receiver.(*ast.Ident).Name+"."+f.Name.Name == name {
			return f
		}
	}
	require.Fail(t, "the source has no "+name)
	return nil
}

// options are the options that methods of caddyfile.go parse: the cases of what
// is switched over d.Val(), and what it is compared with.
func options(t *testing.T, methods ...string) []string {
	t.Helper()
	file := source(t, "caddyfile.go")
	var found []string
	for _, method := range methods {
		before := len(found)
		ast.Inspect(function(t, file, method), func(n ast.Node) bool {
			switch option := n.(type) {
			case *ast.SwitchStmt:
				if option.Init != nil {
					found = append(found, cases(option)...)
				}
			case *ast.BinaryExpr:
				if value, ok := stringOf(option.Y); ok && value != "" && option.Op == token.EQL {
					found = append(found, value)
				}
			}
			return true
		})
		require.Greater(t, len(found), before, "options in %s", method)
	}
	return found
}

func cases(s *ast.SwitchStmt) (found []string) {
	for _, clause := range s.Body.List {
		for _, e := range clause.(*ast.CaseClause).List {
			if value, ok := stringOf(e); ok {
				found = append(found, value)
			}
		}
	}
	return found
}

// constants are the values of the string constants whose names begin so.
func constants(t *testing.T, path, prefix string) map[string]string {
	t.Helper()
	found := make(map[string]string)
	ast.Inspect(source(t, path), func(n ast.Node) bool {
		spec, ok := n.(*ast.ValueSpec)
		if !ok {
			return true
		}
		for i, name := range spec.Names {
			if i < len(spec.Values) && strings.HasPrefix(name.Name, prefix) {
				if value, ok := stringOf(spec.Values[i]); ok {
					found[name.Name] = value
				}
			}
		}
		return true
	})
	require.NotEmpty(t, found, "%s… in %s", prefix, path)
	return found
}

func TestTheREADMEHasEveryOptionOfTheCaddyfileAndNoOther(t *testing.T) {
	r := readReadme(t)
	for heading, methods := range map[string][]string{
		"Global options":  {"App.UnmarshalCaddyfile", "Application.unmarshalOption"},
		"Endpoints":       {"Application.unmarshalEndpoints"},
		"Renewal":         {"Renewal.unmarshal"},
		"PostgreSQL":      {"PostgresStore.UnmarshalCaddyfile"},
		"Handler options": {"Handler.UnmarshalCaddyfile", "Handler.unmarshalOption"},
	} {
		require.ElementsMatch(t, options(t, methods...), r.firsts(t, heading), heading)
	}
}

func TestTheREADMEHasEveryPlaceholderAndNoOther(t *testing.T) {
	var found []string
	ast.Inspect(function(t, source(t, "seller.go"), "placeholders.value"), func(n ast.Node) bool {
		if e, ok := n.(ast.Expr); ok {
			if name, ok := stringOf(e); ok && strings.HasPrefix(name, ".") {
				found = append(found, "{http.mercadopago"+name+"}")
			}
		}
		return true
	})
	slices.Sort(found)
	require.ElementsMatch(t, slices.Compact(found), readReadme(t).firsts(t, "Placeholders"))
}

func TestTheREADMEHasEveryProblemCodeWithItsStatusAndNoOther(t *testing.T) {
	codes, mends := constants(t, "connect/problem.go", "Code"), constants(t, "connect/problem.go", "mend")
	statuses := make(map[string]string)
	for status := range 600 {
		name := strings.NewReplacer(" ", "", "-", "", "'", "").Replace(http.StatusText(status))
		statuses["Status"+name] = strconv.Itoa(status)
	}
	var kinds [][]string
	ast.Inspect(source(t, "connect/problem.go"), func(n ast.Node) bool {
		pair, ok := n.(*ast.KeyValueExpr)
		if !ok {
			return true
		}
		code, named := pair.Key.(*ast.Ident)
		kind, composed := pair.Value.(*ast.CompositeLit)
		if named && composed && codes[code.Name] != "" {
			status := statuses[kind.Elts[0].(*ast.SelectorExpr).Sel.Name]
			kinds = append(kinds, []string{"`" + codes[code.Name] + "`", status, mends[kind.Elts[1].(*ast.Ident).Name]})
		}
		return true
	})
	require.Len(t, kinds, len(codes))
	var told [][]string
	for _, row := range readReadme(t).tables["Problem codes"] {
		told = append(told, row[:3])
	}
	require.ElementsMatch(t, kinds, told)
}

func TestTheREADMEHasEveryReasonAndEveryMessageOfTheLog(t *testing.T) {
	r := readReadme(t)
	for heading, prefix := range map[string]string{"Reasons": "Reason", "Log": "Event"} {
		known := slices.Collect(maps.Values(constants(t, "tokensource/tokensource.go", prefix)))
		require.ElementsMatch(t, known, r.firsts(t, heading), heading)
	}
}

func TestTheREADMEHasEveryConnectPage(t *testing.T) {
	pages := []string{"/connect", "/connect/callback"} // the prefix; and redirect_uri's path, as the README has it
	ast.Inspect(function(t, source(t, "connect/flow.go"), "Flow.takePaths"), func(n ast.Node) bool {
		if sum, ok := n.(*ast.BinaryExpr); ok && sum.Op == token.ADD {
			if below, ok := stringOf(sum.Y); ok {
				pages = append(pages, "/connect"+below)
			}
		}
		return true
	})
	require.Greater(t, len(pages), 2)
	require.ElementsMatch(t, pages, readReadme(t).firsts(t, "Connect pages"))
}

func TestTheREADMELeadsSomewhere(t *testing.T) {
	r := readReadme(t)
	for _, link := range regexp.MustCompile(`\]\(([^)]+)\)|src="([^"]+)"`).FindAllStringSubmatch(r.text, -1) {
		target := link[1] + link[2]
		switch {
		case strings.HasPrefix(target, "https://"):
		case strings.HasPrefix(target, "#"):
			require.Contains(t, r.anchors, target[1:])
		default:
			require.FileExists(t, filepath.Join("..", target))
		}
	}
	module, err := os.ReadFile("../go.mod")
	require.NoError(t, err)
	needs := regexp.MustCompile(`(?m)^go (\d+\.\d+)`).FindSubmatch(module)
	require.NotNil(t, needs)
	require.Contains(t, r.text, "With Go "+string(needs[1])+", make and git")
}
