package main

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/test/client"
)

// TestSoak is a short run of all phases; make soak does the long one.
func TestSoak(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Skip("needs root")
	}
	bin, err := filepath.Abs("../../bin")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{"berthd", "berth-shim"} {
		if _, err := os.Stat(filepath.Join(bin, name)); err != nil {
			t.Skipf("no bin/%s: run make build first", name)
		}
	}
	opts, err := parseOptions([]string{"-bin", bin, "-for", "12s", "-rounds", "2", "-clients", "8", "-pods", "40", "-every", "1s", "-probed", "10", "-kills", "4", "-lives", "60"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), client.Bound(5*time.Minute))
	defer cancel()
	if err := soak(ctx, opts, func(line string) { t.Log(line) }); err != nil {
		t.Fatal(err)
	}
}

// TestModelSeesFaults: a model that allows everything would find nothing.
func TestModelSeesFaults(t *testing.T) {
	ended := func(code int32, reason string) *runtimeapi.ContainerStatus {
		return &runtimeapi.ContainerStatus{State: exited, ExitCode: code, Reason: reason, CreatedAt: 1, FinishedAt: 2}
	}
	runs := &runtimeapi.ContainerStatus{State: running}
	for name, tt := range map[string]struct {
		c    container
		see  []*runtimeapi.ContainerStatus
		lost bool
		ok   bool
	}{
		"as answered":              {container{may: []fate{{state: running}}}, []*runtimeapi.ContainerStatus{runs}, false, true},
		"started, but not so":      {container{may: []fate{{state: running}}}, []*runtimeapi.ContainerStatus{{State: created}}, false, false},
		"ended by itself":          {container{may: []fate{{state: running}}, ends: []int32{5}}, []*runtimeapi.ContainerStatus{ended(5, "Error")}, false, true},
		"ended with another code":  {container{may: []fate{{state: running}}, ends: []int32{5}}, []*runtimeapi.ContainerStatus{ended(6, "Error")}, false, false},
		"ended without a reason":   {container{may: []fate{{state: running}}}, []*runtimeapi.ContainerStatus{ended(5, "Error")}, false, false},
		"lost":                     {container{may: []fate{{state: running}}}, []*runtimeapi.ContainerStatus{ended(255, lostReason)}, false, false},
		"lost with both":           {container{may: []fate{{state: running}}}, []*runtimeapi.ContainerStatus{ended(255, lostReason)}, true, true},
		"gone":                     {container{may: []fate{{state: running}}}, []*runtimeapi.ContainerStatus{nil}, true, false},
		"removed":                  {container{may: []fate{{state: running}}, mayGo: true}, []*runtimeapi.ContainerStatus{nil}, false, true},
		"back again":               {container{may: []fate{{state: gone}}}, []*runtimeapi.ContainerStatus{runs}, false, false},
		"running after its end":    {container{may: []fate{{state: running}}, ends: []int32{5}}, []*runtimeapi.ContainerStatus{ended(5, "Error"), runs}, false, false},
		"another code later":       {container{may: []fate{{state: running}}, ends: []int32{5, 6}}, []*runtimeapi.ContainerStatus{ended(5, "Error"), ended(6, "Error")}, false, false},
		"another time of its end":  {container{may: []fate{{state: running}}, ends: []int32{5}}, []*runtimeapi.ContainerStatus{ended(5, "Error"), {State: exited, ExitCode: 5, FinishedAt: 3}}, false, false},
		"an end before its begin":  {container{may: []fate{{state: running}}, ends: []int32{5}}, []*runtimeapi.ContainerStatus{{State: exited, ExitCode: 5, CreatedAt: 4, FinishedAt: 3}}, false, false},
		"one of two, and then one": {container{may: []fate{{state: created}, {state: running}}}, []*runtimeapi.ContainerStatus{runs, {State: created}}, false, false},
	} {
		t.Run(name, func(t *testing.T) {
			c := tt.c
			why := ""
			for _, st := range tt.see {
				if w := c.see(st, tt.lost); w != "" {
					why = w
				}
			}
			if (why == "") != tt.ok {
				t.Errorf("the model says %q", why)
			}
		})
	}
}

func TestLogsAreJudged(t *testing.T) {
	line := func(n string) string { return "2026-01-01T00:00:00.000000000Z stdout F " + n + "\n" }
	for log, want := range map[string]bool{
		line("0") + line("1") + line("2"): true,
		line("0") + line("2"):             false,
		line("0") + line("1") + line("1"): false,
		line("0") + "2026 stdout":         false,
		"":                                false,
	} {
		if err := countedOn(log); (err == nil) != want {
			t.Errorf("%q: %v", log, err)
		}
	}
	if got := linesMissing(line("a")+line("c"), []string{"a", "b"}); got != "b" {
		t.Errorf("missing is %q", got)
	}
}

// TestHasteIsCountedAsBerthdDoes: no order of kills, in however many rounds, makes the five
// hasty ends of shims in a row after which berthd gives the pods up.
func TestHasteIsCountedAsBerthdDoes(t *testing.T) {
	var h haste
	kill := func() { h.killing(); h.since = time.Now() }
	kill() // the first of the phase: no shim was killed before it
	for range hastyMost {
		if !h.allows() {
			t.Fatalf("no kill is allowed after %d hasty ones", h.quick)
		}
		kill()
	}
	if h.allows() {
		t.Errorf("another is allowed after %d hasty ones", h.quick)
	}
	h.since = time.Now().Add(-hasty)
	if !h.allows() {
		t.Error("none is allowed of a shim that has lived long enough")
	}
	if kill(); h.quick != 0 {
		t.Errorf("%d in a row after a long life", h.quick)
	}
}
