package main

import (
	"bytes"
	"fmt"
	"go/scanner"
	"go/token"
	"path"
	"strings"
)

// size is how many lines a text has, and how many of them hold code or comments.
type size struct{ lines, code, comments int }

func (s *size) add(o size) {
	s.lines += o.lines
	s.code += o.code
	s.comments += o.comments
}

// sizeOf counts the lines of a Go file. A line with code and a comment is both.
func sizeOf(text []byte) size {
	fset := token.NewFileSet()
	file := fset.AddFile("", -1, len(text))
	var s scanner.Scanner
	s.Init(file, text, nil, scanner.ScanComments)
	code, comments := map[int]bool{}, map[int]bool{}
	for {
		pos, tok, lit := s.Scan()
		if tok == token.EOF {
			break
		}
		if tok == token.SEMICOLON && lit == "\n" {
			continue
		}
		into := code
		if tok == token.COMMENT {
			into = comments
		}
		first := file.Line(pos)
		for line := first; line <= first+strings.Count(lit, "\n"); line++ {
			into[line] = true
		}
	}
	return size{lines: bytes.Count(text, []byte("\n")), code: len(code), comments: len(comments)}
}

func sizes(r *report, m *module) {
	var code, test size
	var lengths []int
	perPackage := map[string]*[2]int{} // lines of code, and of test that have code
	for _, f := range m.files {
		s := sizeOf(f.text)
		dir := path.Dir(f.rel)
		if perPackage[dir] == nil {
			perPackage[dir] = &[2]int{}
		}
		switch {
		case isCode(f.rel):
			code.add(s)
			lengths = append(lengths, s.lines)
			perPackage[dir][0] += s.code
		case isTest(f.rel):
			test.add(s)
			perPackage[dir][1] += s.code
		}
	}
	r.section("Sizes")
	r.line("lines / lines with code", "%d / %d", code.lines, code.code)
	r.line("test : code, lines (lines with code)", "%.2f (%.2f)", share(test.lines, code.lines), share(test.code, code.code))
	r.line("comment lines per 100 lines with code", "%.0f", 100*share(code.comments, code.code))
	r.line("files; lines median / p90 / max", "%d; %s", len(lengths), spread(lengths))
	r.section("Test : code of each package, lines with code")
	ratios := map[string]int{}
	for dir, n := range perPackage {
		if n[0] > 0 {
			ratios[dir] = int(1e5 * share(n[1], n[0]))
		}
	}
	for _, dir := range sortedKeys(ratios) {
		n := perPackage[dir]
		r.line(dir, "%.2f", share(n[1], n[0]))
	}
}

func sortedKeys(ratios map[string]int) []string {
	keys := make([]string, 0, len(ratios))
	for k := range ratios {
		keys = append(keys, k)
	}
	sortBy(keys, func(k string) string { return fmt.Sprintf("%08d %s", 99999999-ratios[k], k) })
	return keys
}
