//go:build ignore

// Command examples checks that the documentation shows what can be called: each exported function
// of the packages that are given as folders has an Example of its name, each exported method has
// one or is called by an Example of its package, and each Example runs, which it does only with an
// Output comment. It reads the files of every system.
package main

import (
	"fmt"
	"go/ast"
	"go/doc"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Nobody needs to be shown these.
var trivial = []string{"Close", "Error", "Is", "String", "SyscallConn", "Temporary", "Timeout", "Unwrap"}

// exceptions, by package folder and name, each with the reason.
var exceptions = map[string]string{
	// "scm.Conn.SetPassRights": "needs Linux 6.16, where the example would not be the same",
}

func main() {
	unused := map[string]bool{}
	for name := range exceptions {
		unused[name] = true
	}
	bad, functions, examples := 0, 0, 0
	for _, dir := range os.Args[1:] {
		names, found, err := read(dir)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(2)
		}
		called := map[string]bool{}
		own := map[string]bool{}
		for _, e := range found {
			if e.Output == "" && !e.EmptyOutput {
				fmt.Printf("%s: Example%s does not run: it has no Output comment\n", dir, e.Name)
				bad++
			}
			own[strings.SplitN(e.Name, "_", 2)[0]] = true // of the function or type
			own[e.Name] = true
			if parts := strings.Split(e.Name, "_"); len(parts) > 2 { // T_M_suffix
				own[parts[0]+"_"+parts[1]] = true
			}
			ast.Inspect(e.Code, func(n ast.Node) bool {
				if sel, ok := n.(*ast.SelectorExpr); ok {
					called[sel.Sel.Name] = true
				}
				return true
			})
		}
		for _, name := range names {
			key := filepath.ToSlash(filepath.Clean(dir)) + "." + name
			if exceptions[key] != "" {
				delete(unused, key)
				continue
			}
			typ, method, isMethod := strings.Cut(name, ".")
			switch {
			case !isMethod && !own[name]:
				fmt.Printf("%s: no Example%s\n", dir, name)
				bad++
			case isMethod && !own[typ+"_"+method] && !called[method]:
				fmt.Printf("%s: no Example%s_%s, and no Example calls it\n", dir, typ, method)
				bad++
			}
		}
		functions += len(names)
		examples += len(found)
	}
	for name := range unused {
		fmt.Printf(".ci/examples.go: the exception %s is not needed\n", name)
		bad++
	}
	if bad > 0 {
		os.Exit(1)
	}
	fmt.Printf("%d functions and methods, %d examples\n", functions, examples)
}

// read returns the exported functions of a package, the methods of its exported types as "T.M",
// and the examples of its tests.
func read(dir string) (names []string, examples []*doc.Example, err error) {
	paths, err := filepath.Glob(filepath.Join(dir, "*.go"))
	if err != nil {
		return nil, nil, err
	}
	fset := token.NewFileSet()
	for _, path := range paths {
		file, err := parser.ParseFile(fset, path, nil, parser.ParseComments|parser.SkipObjectResolution)
		if err != nil {
			return nil, nil, err
		}
		if strings.HasSuffix(path, "_test.go") {
			examples = append(examples, doc.Examples(file)...)
			continue
		}
		for _, decl := range file.Decls {
			if f, ok := decl.(*ast.FuncDecl); ok {
				if name, ok := exported(f); ok && !slices.Contains(names, name) {
					names = append(names, name)
				}
			}
		}
	}
	slices.Sort(names)
	return names, examples, nil
}

func exported(f *ast.FuncDecl) (string, bool) {
	if !f.Name.IsExported() {
		return "", false
	}
	if f.Recv == nil {
		return f.Name.Name, true
	}
	t := f.Recv.List[0].Type
	if star, ok := t.(*ast.StarExpr); ok {
		t = star.X
	}
	if index, ok := t.(*ast.IndexExpr); ok { // of a generic type
		t = index.X
	}
	id, ok := t.(*ast.Ident)
	if !ok || !id.IsExported() || slices.Contains(trivial, f.Name.Name) {
		return "", false
	}
	return id.Name + "." + f.Name.Name, true
}
