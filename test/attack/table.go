package main

import (
	"fmt"
	"io"
	"maps"
	"regexp"
	"slices"
	"strings"
	"text/tabwriter"

	"berth/test/testlog"
)

// result is a row of the table.
type result struct {
	attack, tries, where string
	broken               bool
	skipped              string   // why
	output               []string // of a broken one
}

// results are a row for every subtest without subtests of its own, for every
// function without subtests, and for what failed by itself above its subtests.
func (s *suite) results(r *testlog.Reader, exit int) (rows []result) {
	parent, failed := parents(r)
	for _, name := range slices.Sorted(slices.Values(r.Order)) { // the same from run to run
		o := r.Tests[name]
		if !parent[name] || o.Status == "FAIL" && !failed[name] {
			rows = append(rows, s.row(o))
		}
	}
	for _, name := range slices.Sorted(maps.Keys(s.Tests)) {
		if r.Tests[name] == nil {
			o := &testlog.Outcome{Name: name, Output: r.Outside.Output}
			if exit == 0 {
				o.Status = "SKIP" // the package told why it runs none
			}
			rows = append(rows, s.row(o))
		}
	}
	if exit != 0 && !slices.ContainsFunc(rows, func(row result) bool { return row.broken }) {
		rows = append(rows, result{
			attack: "all of the package", tries: "what is left after them", where: s.Package, broken: true, output: r.Outside.Output,
		})
	}
	return rows
}

// parents are the tests that have subtests, and those of them with one that failed.
func parents(r *testlog.Reader) (parent, failed map[string]bool) {
	parent, failed = map[string]bool{}, map[string]bool{}
	for _, name := range r.Order {
		for at := strings.LastIndexByte(name, '/'); at > 0; at = strings.LastIndexByte(name[:at], '/') {
			parent[name[:at]] = true
			failed[name[:at]] = failed[name[:at]] || r.Tests[name].Status == "FAIL"
		}
	}
	return parent, failed
}

var cve = regexp.MustCompile(`CVE-\d{4}-\d+`)

func (s *suite) row(o *testlog.Outcome) result {
	function, sub, _ := strings.Cut(o.Name, "/")
	row := result{tries: s.Tests[function], where: s.Package, broken: o.Failed()}
	row.attack = strings.TrimPrefix(function, prefix)
	if numbers := cve.FindAllString(row.tries, -1); sub == "" && len(numbers) > 0 {
		row.attack = strings.Join(numbers, ", ")
	}
	if sub != "" {
		row.attack = strings.ReplaceAll(sub, "_", " ")
		if number, rest, _ := strings.Cut(row.attack, " "); cve.MatchString(number) && rest != "" {
			row.attack, row.tries = number, rest
		}
	}
	if row.broken {
		row.output = o.Output
	}
	if o.Status == "SKIP" {
		row.skipped = o.Reason()
	}
	return row
}

// cut makes text fit into a column.
func cut(text string) string {
	const most = 64 // characters
	if r := []rune(text); len(r) > most {
		return string(r[:most-1]) + "…"
	}
	return text
}

// report writes the table, and an error when an attack succeeded or none ran.
func report(w io.Writer, all []result) error {
	held, broken, skipped := 0, 0, 0
	t := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	fmt.Fprintln(t, "#\tATTACK\tTRIES\tWHERE\tRESULT")
	for i, r := range all {
		verdict := "held"
		switch {
		case r.broken:
			verdict, broken = "BROKEN", broken+1
		case r.skipped != "":
			verdict, skipped = "skipped: "+r.skipped, skipped+1
		default:
			held++
		}
		fmt.Fprintf(t, "%d\t%s\t%s\t%s\t%s\n", i+1, r.attack, cut(r.tries), r.where, verdict)
	}
	if err := t.Flush(); err != nil {
		return err
	}
	for i, r := range all {
		if r.broken {
			fmt.Fprintf(w, "\n%d BROKEN: %s: %s\n\t%s\n", i+1, r.attack, r.tries, strings.Join(r.output, "\n\t"))
		}
	}
	fmt.Fprintf(w, "\n%d attacks: %d held, %d BROKEN, %d skipped\n", len(all), held, broken, skipped)
	if broken > 0 {
		return fmt.Errorf("%d of %d attacks succeeded", broken, len(all))
	}
	if held == 0 {
		return fmt.Errorf("no attack was tried")
	}
	return nil
}
