package server

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"

	"berth/server/config"
)

// What the pages of hack/docs name is there: each is linked from the README, each link leads
// somewhere, each key of berth is one, and each of berth's commands is known to it.
func TestDocsAreTrue(t *testing.T) {
	readme, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	var printed bytes.Buffer
	if err := config.Default().Print(&printed); err != nil {
		t.Fatal(err)
	}
	keys := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^(\w+) = `).FindAllStringSubmatch(printed.String(), -1) {
		keys[m[1]] = true
	}
	for _, m := range regexp.MustCompile(`(?m)^#   (\w+): `).FindAllStringSubmatch(printed.String(), -1) { // of a table
		keys[m[1]] = true
	}
	usage := commandsOf(t)
	pages, err := filepath.Glob("../hack/docs/*.md")
	if err != nil || len(pages) < 4 {
		t.Fatalf("the pages are %q, %v", pages, err)
	}
	for _, page := range pages {
		if !strings.Contains(string(readme), "](hack/docs/"+filepath.Base(page)+")") {
			t.Errorf("%s is not linked from the README", page)
		}
		text, err := os.ReadFile(page)
		if err != nil {
			t.Fatal(err)
		}
		for _, m := range link.FindAllStringSubmatch(string(text), -1) {
			if _, err := os.Stat(filepath.Join(filepath.Dir(page), m[1])); err != nil {
				t.Errorf("%s links to %s: %v", page, m[1], err)
			}
		}
		for _, key := range keysOf(string(text)) {
			if !keys[key] {
				t.Errorf("%s names the key %s, which there is not", page, key)
			}
		}
		for _, m := range regexp.MustCompile("(?m)(?:^    |`)berth ([a-z]+(?: [a-z]+)?)").FindAllStringSubmatch(string(text), -1) {
			first, _, _ := strings.Cut(m[1], " ")
			if !usage[m[1]] && !usage[first] {
				t.Errorf("%s names the command berth %s, which there is not", page, m[1])
			}
		}
	}
}

// keysOf are the keys that a page says berth has: of a table the second column, else all
// words in code that look like one.
func keysOf(text string) (keys []string) {
	code := regexp.MustCompile("`([a-z]+(?:_[a-z]+)+)`")
	for line := range strings.Lines(text) {
		if cells := strings.Split(line, "|"); len(cells) == 4 {
			line = cells[2]
			if strings.TrimSpace(line) == "the same" {
				line = cells[1]
			}
		}
		for _, m := range code.FindAllStringSubmatch(line, -1) {
			keys = append(keys, m[1])
		}
	}
	return keys
}

// commandsOf are the commands of the operator's tool, by its own help.
func commandsOf(t *testing.T) map[string]bool {
	t.Helper()
	out, err := exec.Command("go", "run", "-buildvcs=false", "../cmd/berth", "help").Output()
	if err != nil {
		t.Fatal(err)
	}
	all := map[string]bool{}
	for _, m := range regexp.MustCompile(`(?m)^  ([a-z]+(?: [a-z]+)?)\b`).FindAllStringSubmatch(string(out), -1) {
		all[m[1]] = true
	}
	return all
}
