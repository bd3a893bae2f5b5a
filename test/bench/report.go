package main

import (
	"encoding/json"
	"fmt"
	"io"
	"math"
	"os"
	"slices"
	"strings"
	"sync"
	"text/tabwriter"
	"time"
)

// goal is what the design expects of berth: at most (or at least) a multiple of
// another runtime's median, or an absolute median when against is "".
type goal struct {
	limit   float64
	against string
	least   bool
}

var goals = map[string]goal{
	"pod.up":             {limit: 0.4, against: nameContainerd},
	"exec":               {limit: 0.35, against: nameContainerd},
	"parallel.run":       {limit: 3, against: nameContainerd, least: true},
	"growth.host":        {limit: 1.3},
	"growth.bridge":      {limit: 1.3},
	"stats.containers":   {limit: 0.1, against: nameContainerd},
	"stats.pods":         {limit: 0.1, against: nameContainerd},
	"logs":               {limit: 1, against: nameContainerd},
	"streams.exec":       {limit: 1, against: nameContainerd},
	"streams.forward":    {limit: 1, against: nameContainerd},
	"memory.pss_per_pod": {limit: 0.5},
	"memory.total":       {limit: 60},
	"idle.cpu":           {limit: 0.1},
	"pull.200m":          {limit: 0.4, against: nameContainerd},
	"pull.1g":            {limit: 1.3, against: nameFloor},
	"pull.known":         {limit: 20},
	"pull.peak8":         {limit: 150},
}

// nameFloor is the runtime column of what needs no runtime.
const nameFloor = "floor"

// record is one line of JSON: a measure of one runtime.
type record struct {
	Name    string `json:"name"`
	Runtime string `json:"runtime"`
	N       int    `json:"n"`
	Unit    string `json:"unit"`
	// Of times, in milliseconds.
	MedianMS float64 `json:"median_ms,omitempty"`
	P99MS    float64 `json:"p99_ms,omitempty"`
	MinMS    float64 `json:"min_ms,omitempty"`
	MaxMS    float64 `json:"max_ms,omitempty"`
	// Of everything else: the median, in Unit.
	Value *float64 `json:"value,omitempty"`
	// Ratio is berth's median over the other's named by Against.
	Ratio   float64 `json:"ratio,omitempty"`
	Against string  `json:"against,omitempty"`
	Goal    string  `json:"goal,omitempty"`
	Met     *bool   `json:"met,omitempty"`

	median float64
}

type seriesKey struct{ name, runtime string }

// report collects samples and keeps the order in which measures first came.
type report struct {
	mu      sync.Mutex
	samples map[seriesKey][]float64
	units   map[string]string
	names   []string
}

func newReport() *report {
	return &report{samples: map[seriesKey][]float64{}, units: map[string]string{}}
}

// time adds a duration.
func (r *report) time(name, runtime string, d time.Duration) {
	r.value(name, runtime, "ms", float64(d)/float64(time.Millisecond))
}

// value adds a sample of any unit.
func (r *report) value(name, runtime, unit string, v float64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.units[name]; !known {
		r.names = append(r.names, name)
		r.units[name] = unit
	}
	key := seriesKey{name, runtime}
	r.samples[key] = append(r.samples[key], v)
}

// median is that of the samples so far.
func (r *report) median(name, runtime string) float64 {
	r.mu.Lock()
	defer r.mu.Unlock()
	return quantile(slices.Sorted(slices.Values(r.samples[seriesKey{name, runtime}])), 0.5)
}

// quantile of sorted samples by nearest rank; q is 0..1.
func quantile(sorted []float64, q float64) float64 {
	if len(sorted) == 0 {
		return 0
	}
	if q == 0.5 && len(sorted)%2 == 0 {
		return (sorted[len(sorted)/2-1] + sorted[len(sorted)/2]) / 2
	}
	rank := int(q*float64(len(sorted))+0.999999) - 1
	return sorted[min(max(rank, 0), len(sorted)-1)]
}

// records gives every measure, in order, with ratios and goals.
func (r *report) records() []record {
	r.mu.Lock()
	defer r.mu.Unlock()
	var all []record
	for _, name := range r.names {
		for _, runtime := range []string{nameBerth, nameBefore, nameContainerd, nameFloor} {
			if samples := r.samples[seriesKey{name, runtime}]; len(samples) > 0 {
				all = append(all, summarize(name, runtime, r.units[name], samples))
			}
		}
	}
	compare(all)
	for i := range all {
		all[i].trim()
	}
	return all
}

func summarize(name, runtime, unit string, samples []float64) record {
	sorted := slices.Sorted(slices.Values(samples))
	rec := record{Name: name, Runtime: runtime, N: len(sorted), Unit: unit, median: quantile(sorted, 0.5)}
	if unit != "ms" {
		return rec
	}
	rec.MedianMS, rec.P99MS = rec.median, quantile(sorted, 0.99)
	rec.MinMS, rec.MaxMS = sorted[0], sorted[len(sorted)-1]
	return rec
}

// compare fills in ratios and goals of berth's records.
func compare(all []record) {
	medians := map[seriesKey]float64{}
	for _, rec := range all {
		medians[seriesKey{rec.Name, rec.Runtime}] = rec.median
	}
	for i := range all {
		rec := &all[i]
		if rec.Runtime != nameBerth {
			continue
		}
		g, wanted := goals[rec.Name]
		rec.Against = nameContainerd
		if wanted && g.against != "" {
			rec.Against = g.against
		}
		if medians[seriesKey{rec.Name, nameBefore}] > 0 {
			rec.Against, wanted = nameBefore, false // the goals are for other runtimes
		}
		if other := medians[seriesKey{rec.Name, rec.Against}]; other > 0 {
			rec.Ratio = rec.median / other
		} else {
			rec.Against = ""
		}
		if wanted {
			rec.judge(g)
		}
	}
}

// trim keeps three decimals: microseconds.
func (rec *record) trim() {
	for _, v := range []*float64{&rec.median, &rec.MedianMS, &rec.P99MS, &rec.MinMS, &rec.MaxMS, &rec.Ratio} {
		*v = math.Round(*v*1000) / 1000
	}
	if rec.Unit != "ms" {
		rec.Value = &rec.median
	}
}

// judge says whether a goal is met; a ratio without its other side is not judged.
func (rec *record) judge(g goal) {
	value, sign := rec.median, "≤"
	if g.least {
		sign = "≥"
	}
	rec.Goal = fmt.Sprintf("%s%g %s", sign, g.limit, rec.Unit)
	if g.against != "" {
		value, rec.Goal = rec.Ratio, fmt.Sprintf("%s%g×%s", sign, g.limit, g.against)
		if rec.Ratio == 0 {
			return
		}
	}
	met := (value <= g.limit) != g.least || value == g.limit
	rec.Met = &met
}

// writeJSON writes one line per record.
func writeJSON(w io.Writer, head map[string]any, all []record) error {
	enc := json.NewEncoder(w)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(head); err != nil {
		return err
	}
	for _, rec := range all {
		if err := enc.Encode(rec); err != nil {
			return err
		}
	}
	return nil
}

// saveJSON writes the same lines to a file.
func saveJSON(path string, head map[string]any, all []record) error {
	f, err := os.Create(path)
	if err != nil {
		return err
	}
	defer f.Close()
	return writeJSON(f, head, all)
}

// table prints medians side by side: one row per measure.
func table(w io.Writer, all []record) error {
	tw := tabwriter.NewWriter(w, 0, 8, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(tw, "measure\tunit\tn\tberth\tp99\t"+otherOf(all)+"\tp99\tfloor\tratio\tgoal\t\t")
	for i := 0; i < len(all); {
		next := i
		cells := map[string]record{}
		for next < len(all) && all[next].Name == all[i].Name {
			cells[all[next].Runtime] = all[next]
			next++
		}
		fmt.Fprintln(tw, strings.Join(row(all[i], cells), "\t")+"\t")
		i = next
	}
	return tw.Flush()
}

// otherOf is the runtime that berth is measured beside.
func otherOf(all []record) string {
	for _, rec := range all {
		if rec.Runtime == nameBefore {
			return nameBefore
		}
	}
	return nameContainerd
}

func row(first record, cells map[string]record) []string {
	b, c, f := cells[nameBerth], cells[nameContainerd], cells[nameFloor]
	if before := cells[nameBefore]; before.N > 0 {
		c = before
	}
	verdict := ""
	if b.Met != nil {
		verdict = map[bool]string{true: "met", false: "MISSED"}[*b.Met]
	}
	return []string{
		first.Name, first.Unit, fmt.Sprint(max(b.N, c.N, f.N)),
		figure(b), tail(b), figure(c), tail(c), figure(f), ratio(b), b.Goal, verdict,
	}
}

func figure(rec record) string {
	if rec.N == 0 {
		return "-"
	}
	return number(rec.median)
}

func tail(rec record) string {
	if rec.P99MS == 0 {
		return ""
	}
	return number(rec.P99MS)
}

func ratio(rec record) string {
	if rec.Ratio == 0 {
		return ""
	}
	return fmt.Sprintf("%.2f×", rec.Ratio)
}

// number keeps three digits that matter.
func number(v float64) string {
	switch {
	case v >= 100 || v == float64(int64(v)):
		return fmt.Sprintf("%.0f", v)
	case v >= 10:
		return fmt.Sprintf("%.1f", v)
	}
	return fmt.Sprintf("%.2f", v)
}
