package explain

import (
	"fmt"
	"io"
	"slices"
	"strings"

	"berth/cmd/berth/printable"
)

// Report is what there is to know about one pod or container.
type Report struct {
	Kind string `json:"kind"` // "pod" or "container"
	ID   string `json:"id"`
	Name string `json:"name"`
	Pod  string `json:"pod,omitempty"` // of a container: NAMESPACE/NAME

	Layers   []*Layer  `json:"layers"`
	Findings []Finding `json:"findings"` // strongest first
	Likely   string    `json:"likely"`   // one line: what most likely explains a failure

	places []place
}

// place is a directory and the short name that it has when a person reads.
type place struct{ short, dir string }

// Layer is one of process, filesystem, namespaces, cgroup, security, network,
// and of a pod: containers.
type Layer struct {
	Name  string `json:"name"`
	Facts []Fact `json:"facts"`
}

// Fact is one thing that was seen, and the file it was read from.
type Fact struct {
	Name  string `json:"name"`
	Value string `json:"value"`
	From  string `json:"from,omitempty"`

	lines []string // what a person reads below the name instead of the value
}

// Finding is something out of the ordinary.
type Finding struct {
	Layer    string `json:"layer"`
	Strength int    `json:"strength"` // 100 explains an end for certain, 10 may matter
	Seen     string `json:"seen"`
	Try      string `json:"try"`
}

// How strongly a finding explains a failure.
const (
	certain  = 100 // a fact that was written down as the reason
	strong   = 80  // leaves little else
	likely   = 60
	possible = 30
	hint     = 10
)

// nothing is the last line of a report without findings.
const nothing = "nothing seen here explains a failure"

// section writes one layer of a report.
type section struct {
	*Layer
	report *Report
}

// section appends a layer to the report.
func (r *Report) section(layer string) *section {
	s := &section{&Layer{Name: layer}, r}
	r.Layers = append(r.Layers, s.Layer)
	return s
}

func (s *section) fact(name, from, format string, args ...any) {
	s.Facts = append(s.Facts, Fact{Name: name, Value: fmt.Sprintf(format, args...), From: from})
}

func (s *section) unreadable(name, from string, err error) {
	s.fact(name, from, "can't be read: %v", err)
}

// find adds a finding of this layer to the report.
func (s *section) find(strength int, try, format string, args ...any) {
	s.report.Findings = append(s.report.Findings, Finding{Layer: s.Name, Strength: strength, Seen: fmt.Sprintf(format, args...), Try: try})
}

// conclude sorts the findings and names the strongest.
func (r *Report) conclude() *Report {
	slices.SortStableFunc(r.Findings, func(a, b Finding) int { return b.Strength - a.Strength })
	r.Likely = nothing
	if len(r.Findings) > 0 {
		r.Likely = r.Findings[0].line()
	}
	return r
}

func (f Finding) line() string { return f.Layer + ": " + f.Seen + ": " + f.Try }

// shownBytes is how much of one value a person is shown. JSON has it whole.
const shownBytes = 2000

// Write prints the report for a person; its last line is the likely reason. What
// workloads, images and registries have written is escaped: it can neither act on a
// terminal nor look like a line of the report.
func (r *Report) Write(w io.Writer) error {
	var b strings.Builder
	fmt.Fprintf(&b, "%s %s %s", r.Kind, shown(r.Name), shown(r.ID))
	if r.Pod != "" {
		fmt.Fprintf(&b, " of pod %s", shown(r.Pod))
	}
	b.WriteByte('\n')
	for _, p := range r.places {
		fmt.Fprintf(&b, "  %-14s is %s\n", p.short, shown(p.dir))
	}
	for _, layer := range r.Layers {
		fmt.Fprintf(&b, "\n%s\n", layer.Name)
		for _, f := range layer.Facts {
			f.From = r.shorten(f.From)
			f.write(&b)
		}
	}
	if len(r.Findings) > 1 {
		b.WriteString("\nfindings\n")
		for _, f := range r.Findings {
			fmt.Fprintf(&b, "  %s\n", shown(f.line()))
		}
	}
	fmt.Fprintf(&b, "\nMost likely: %s\n", shown(r.Likely))
	_, err := io.WriteString(w, b.String())
	return err
}

func (r *Report) shorten(path string) string {
	for _, p := range r.places {
		if rest, ok := strings.CutPrefix(path, p.dir); ok {
			return p.short + rest
		}
	}
	return path
}

func (f Fact) write(b *strings.Builder) {
	value := shown(f.Value)
	if f.lines != nil {
		value = ""
	}
	fmt.Fprintf(b, "  %-14s %s", shown(f.Name), value)
	if f.From != "" {
		fmt.Fprintf(b, "  [%s]", shown(f.From))
	}
	b.WriteByte('\n')
	for _, line := range f.lines {
		fmt.Fprintf(b, "  %-14s %s\n", "", shown(line))
	}
}

func shown(s string) string { return printable.Short(s, shownBytes) }
