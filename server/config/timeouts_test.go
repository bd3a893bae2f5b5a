package config

import (
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// What timeouts does not name keeps its default, and so does all of it when it is empty.
func TestTimeBounds(t *testing.T) {
	usual := TimeBounds{CNIAdd: 2 * time.Minute, CNIDel: 30 * time.Second, Stop: 30 * time.Second, Drain: 10 * time.Second}
	drain, all := usual, TimeBounds{CNIAdd: 2 * time.Second, CNIDel: 3 * time.Second, Stop: 4 * time.Second}
	drain.Drain = 0
	for text, want := range map[string]TimeBounds{
		"": usual, "drain=0s": drain, "drain=0s,cni-add=2s,cni-del=3s,stop=4s": all,
		strings.Join(Default().Timeouts, ","): usual,
	} {
		c := Default()
		c.Timeouts = strings.FieldsFunc(text, func(r rune) bool { return r == ',' })
		if got, err := c.TimeBounds(); got != want || err != nil || c.Check() != nil {
			t.Errorf("%q: %+v, %v, %v, want %+v", text, got, err, c.Check(), want)
		}
	}
	c := Default()
	c.NRITimeouts = []string{"request=1500ms"}
	if register, request, err := c.NRIBounds(); register != 5*time.Second || request != 1500*time.Millisecond || err != nil {
		t.Errorf("%q: %s, %s, %v", c.NRITimeouts, register, request, err)
	}
}

func TestWrongTimeouts(t *testing.T) {
	const names = `timeouts: want NAME=DURATION with the names cni-add, cni-del, stop, drain, once each, not "`
	for text, want := range map[string]string{
		"pull=1m":                names + `pull=1m"`,
		"drain=1s,drain=1s":      names + `drain=1s"`,
		"=1s":                    names + `=1s"`,
		"10s":                    names + `10s"`,
		"drain":                  `timeouts: want a duration such as drain=10s, not "drain"`,
		"cni-add=2":              `timeouts: want a duration such as cni-add=10s, not "cni-add=2"`,
		"cni-add=0s":             "timeouts: want cni-add to be 1s to 10m0s, not 0s",
		"stop=999ms":             "timeouts: want stop to be 1s to 10m0s, not 999ms",
		"cni-del=11m":            "timeouts: want cni-del to be 1s to 10m0s, not 11m0s",
		"drain=-1s":              "timeouts: want drain to be 0s to 1h0m0s, not -1s",
		"stop=9s,drain=2540400h": "timeouts: want drain to be 0s to 1h0m0s, not 2540400h0m0s",
	} {
		c := Default()
		c.Timeouts = strings.Split(text, ",")
		if err := c.Check(); err == nil || err.Error() != want {
			t.Errorf("%q: %v, want %s", text, err, want)
		}
	}
}

// Of timeouts a reload takes drain, and says that the others need a restart as long as
// they differ from what the daemon was started with.
func TestReloadedDrain(t *testing.T) {
	now, next := Default(), Default()
	next.Timeouts = []string{"drain=30s", "cni-add=5s"}
	for range 2 {
		merged, changed, restart := now.Reloaded(next)
		got, err := merged.TimeBounds()
		want := defaultBounds()
		want.Drain = 30 * time.Second
		if got != want || err != nil {
			t.Errorf("after a reload: %+v, %v, want %+v", got, err, want)
		}
		if now.Timeouts[3] == "drain=10s" && !cmp.Equal(changed, []string{"timeouts"}) {
			t.Errorf("changed are %q", changed)
		}
		if now.Timeouts[3] != "drain=10s" && len(changed) > 0 {
			t.Errorf("nothing changed, and it says %q", changed)
		}
		if !cmp.Equal(restart, []string{"timeouts"}) {
			t.Errorf("a restart is needed for %q", restart)
		}
		now = merged
	}
	next.Timeouts = []string{"drain=30s"}
	if _, changed, restart := now.Reloaded(next); len(changed)+len(restart) > 0 {
		t.Errorf("the same timeouts in other words are a change of %q and %q", changed, restart)
	}
}

// A flag that there was is told what it is now.
func TestFlagAdvice(t *testing.T) {
	for args, want := range map[string]string{
		"--root /x --drain-timeout=3s":     `; drain_timeout is now timeouts = ["drain=10s"]`,
		"-nri-plugin-request-timeout 2s":   `; nri_plugin_request_timeout is now nri_timeouts = ["request=2s"]`,
		"--root drain-timeout --nosuch=1 ": "",
	} {
		if got := FlagAdvice(strings.Fields(args)); got != want {
			t.Errorf("%s: %q, want %q", args, got, want)
		}
	}
}
