package main

import (
	"bytes"
	"context"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestQuantile(t *testing.T) {
	hundred := make([]float64, 100)
	for i := range hundred {
		hundred[i] = float64(i + 1)
	}
	for _, c := range []struct {
		samples []float64
		q, want float64
	}{
		{nil, 0.5, 0},
		{[]float64{7}, 0.5, 7},
		{[]float64{7}, 0.99, 7},
		{[]float64{1, 3}, 0.5, 2},
		{[]float64{1, 2, 9}, 0.5, 2},
		{hundred, 0.99, 99},
		{hundred, 0.5, 50.5},
	} {
		if got := quantile(c.samples, c.q); got != c.want {
			t.Errorf("quantile(%d samples, %g) = %g, want %g", len(c.samples), c.q, got, c.want)
		}
	}
}

// sampleReport has one met goal, one missed, one rate that must be large, one
// absolute and one that cannot be judged.
func sampleReport() *report {
	r := newReport()
	for _, ms := range []time.Duration{40, 50, 60} {
		r.time("pod.up", nameBerth, ms*time.Millisecond)
		r.time("pod.up", nameContainerd, 4*ms*time.Millisecond)
		r.time("exec", nameBerth, ms*time.Millisecond)
		r.time("exec", nameContainerd, ms*time.Millisecond)
	}
	r.value("parallel.run", nameBerth, "pods/s", 30)
	r.value("parallel.run", nameContainerd, "pods/s", 10)
	r.value("memory.pss_per_pod", nameBerth, "MiB", 0.4)
	r.time("pull.200m", nameBerth, time.Second)
	r.time("floor.netns", nameFloor, time.Millisecond)
	return r
}

func TestGoals(t *testing.T) {
	want := map[string]string{
		"pod.up": "met", "exec": "MISSED", "parallel.run": "met", "memory.pss_per_pod": "met", "pull.200m": "",
	}
	for _, rec := range sampleReport().records() {
		if rec.Runtime != nameBerth {
			if rec.Met != nil || rec.Ratio != 0 {
				t.Errorf("%s of %s is judged: only berth has goals", rec.Name, rec.Runtime)
			}
			continue
		}
		verdict := row(rec, map[string]record{nameBerth: rec})[10]
		if verdict != want[rec.Name] {
			t.Errorf("%s: %q, want %q (ratio %g)", rec.Name, verdict, want[rec.Name], rec.Ratio)
		}
	}
}

// TestBefore compares with another build, which no goal is about.
func TestBefore(t *testing.T) {
	r := newReport()
	r.time("pod.up", nameBerth, 50*time.Millisecond)
	r.time("pod.up", nameBefore, 40*time.Millisecond)
	all := r.records()
	if rec := all[0]; rec.Against != nameBefore || rec.Ratio != 1.25 || rec.Met != nil {
		t.Errorf("%+v", rec)
	}
	var text bytes.Buffer
	if err := table(&text, all); err != nil || !strings.Contains(text.String(), " before ") || !strings.Contains(text.String(), "1.25×") {
		t.Errorf("%s, %v", text.String(), err)
	}
}

func TestOutput(t *testing.T) {
	all := sampleReport().records()
	var lines, text bytes.Buffer
	if err := writeJSON(&lines, map[string]any{"name": "environment"}, all); err != nil {
		t.Fatal(err)
	}
	dec := json.NewDecoder(&lines)
	count := 0
	for dec.More() {
		var line map[string]any
		if err := dec.Decode(&line); err != nil {
			t.Fatal(err)
		}
		if count++; line["name"] == "pod.up" && line["runtime"] == nameBerth {
			if line["median_ms"] != 50.0 || line["p99_ms"] != 60.0 || line["ratio"] != 0.25 || line["met"] != true {
				t.Errorf("pod.up of berth: %v", line)
			}
		}
		if line["unit"] == "MiB" && line["value"] != 0.4 {
			t.Errorf("a value is missing: %v", line)
		}
	}
	if count != len(all)+1 {
		t.Errorf("%d lines for %d records and the environment", count, len(all))
	}
	if err := table(&text, all); err != nil {
		t.Fatal(err)
	}
	if rows := strings.Count(text.String(), "\n"); rows != 7 {
		t.Errorf("table has %d rows, want a head and one for each of 6 measures:\n%s", rows, &text)
	}
}

// TestEndOfALog: a log is at its end with its last line, and never comes to it without.
func TestEndOfALog(t *testing.T) {
	path := filepath.Join(t.TempDir(), "0.log")
	begin := strings.Repeat("2026-11-28T08:00:00.000000000Z stdout F x\n", 100)
	ctx, cancel := context.WithTimeout(t.Context(), 10*look)
	defer cancel()
	for name, text := range map[string]string{
		"no file": "", "no end": begin, "a partial line": begin + "2026-11-28T08:00:00.000000000Z stdout P " + endLine + "\n",
	} {
		if text != "" {
			if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if _, err := awaitEnd(ctx, path); err == nil {
			t.Errorf("%s: it is taken for the end", name)
		}
		_ = os.Remove(path) // it may not be there
	}
	whole := begin + "2026-11-28T08:00:00.000000000Z stdout F " + endLine + "\n"
	if err := os.WriteFile(path, []byte(whole), 0o600); err != nil {
		t.Fatal(err)
	}
	if size, err := awaitEnd(t.Context(), path); err != nil || size != int64(len(whole)) {
		t.Errorf("%d bytes of %d, %v", size, len(whole), err)
	}
}
