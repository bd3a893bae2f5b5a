package main

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
)

// report is what is printed: sections of lines. The first error of writing stays.
type report struct {
	out    io.Writer
	detail int
	err    error
}

func (r *report) printf(format string, args ...any) {
	if r.err == nil {
		_, r.err = fmt.Fprintf(r.out, format, args...)
	}
}

func (r *report) section(title string) {
	r.printf("\n%s\n%s\n", title, strings.Repeat("-", len(title)))
}

// line prints one figure.
func (r *report) line(name, format string, args ...any) {
	r.printf("%-44s "+format+"\n", append([]any{name}, args...)...)
}

// top prints the entries with the highest figures.
func (r *report) top(name string, figures map[string]int) {
	keys := slices.SortedFunc(maps.Keys(figures), func(a, b string) int {
		return cmp.Or(cmp.Compare(figures[b], figures[a]), cmp.Compare(a, b))
	})
	entries := make([]string, 0, r.detail)
	for _, k := range keys[:min(len(keys), r.detail)] {
		entries = append(entries, fmt.Sprintf("%s %d", k, figures[k]))
	}
	r.line(name, "%s", strings.Join(entries, ", "))
}

// list prints names, the first of them only.
func (r *report) list(name string, names []string) {
	slices.Sort(names)
	text := strings.Join(names[:min(len(names), r.detail)], ", ")
	if len(names) > r.detail {
		text += ", …"
	}
	r.line(name, "%d: %s", len(names), text)
}

// spread is the median, the 90th percentile and the largest of some numbers.
func spread(n []int) string {
	if len(n) == 0 {
		return "none"
	}
	s := slices.Sorted(slices.Values(n))
	return fmt.Sprintf("%d / %d / %d", s[len(s)/2], s[len(s)*9/10], s[len(s)-1])
}

func share(part, whole int) float64 {
	if whole == 0 {
		return 0
	}
	return float64(part) / float64(whole)
}

func countAbove(n []int, limit int) int {
	count := 0
	for _, v := range n {
		if v > limit {
			count++
		}
	}
	return count
}
