package server

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"testing"
)

// TestThreatModelNamesTests wants every test that the threat model names to exist, and
// every attack to be named there. The sources in test/attack are made up.
func TestThreatModelNamesTests(t *testing.T) {
	text, err := os.ReadFile("THREATMODEL.md")
	if err != nil {
		t.Fatal(err)
	}
	named := regexp.MustCompile(`TestAttack\w+`).FindAllString(string(text), -1)
	grep := exec.Command("grep", "-rhoP", "--include=*_test.go", "--exclude-dir=attack", `^func \KTestAttack\w+`, ".")
	grep.Dir = moduleRoot(t)
	out, err := grep.Output()
	if err != nil {
		t.Fatal(err)
	}
	there := regexp.MustCompile(`\w+`).FindAllString(string(out), -1)
	for _, n := range named {
		if !slices.Contains(there, n) {
			t.Errorf("THREATMODEL.md names %s, which is no test", n)
		}
	}
	for _, n := range there {
		if !slices.Contains(named, n) {
			t.Errorf("THREATMODEL.md does not name %s", n)
		}
	}
}
