package server

import (
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
)

// TestReadmeIsTrue: a newcomer follows what the README names, so every link leads to a file
// of the repository, and every function that it places in a Go file is declared there.
func TestReadmeIsTrue(t *testing.T) {
	text, err := os.ReadFile("../README.md")
	if err != nil {
		t.Fatal(err)
	}
	if faults := readmeFaults(string(text)); len(faults) != 0 {
		t.Errorf("README.md: %s", strings.Join(faults, "; "))
	}
	lines := strings.Split(strings.TrimSuffix(string(text), "\n"), "\n")
	if len(lines) > 150 {
		t.Errorf("README.md has %d lines, it may have 150", len(lines))
	}
	for i, line := range lines {
		if n := len([]rune(line)); n > 120 {
			t.Errorf("README.md:%d has %d columns, it may have 120", i+1, n)
		}
	}
}

var (
	link       = regexp.MustCompile(`\]\(([^)#]+)\)`)
	goFile     = regexp.MustCompile("`([a-z]+/[a-z_/]+\\.go)`")
	functionIn = regexp.MustCompile("`(\\w+)` (?:in|of)\\s+\\[[^]]+\\]\\(([^)]+\\.go)\\)")
)

func readmeFaults(text string) (faults []string) {
	for _, re := range []*regexp.Regexp{link, goFile} {
		for _, m := range re.FindAllStringSubmatch(text, -1) {
			if strings.HasPrefix(m[1], "https://") {
				continue
			}
			if _, err := os.Stat(filepath.Join("..", m[1])); err != nil {
				faults = append(faults, m[1]+" does not exist")
			}
		}
	}
	for _, m := range functionIn.FindAllStringSubmatch(text, -1) {
		source, _ := os.ReadFile(filepath.Join("..", m[2])) // a file that is missing declares nothing
		declared := regexp.MustCompile(`(?m)^func (\([^)]*\) )?` + m[1] + `\(`)
		if !declared.Match(source) {
			faults = append(faults, m[2]+" declares no function "+m[1])
		}
	}
	return faults
}

func TestReadmeFaultsAreFound(t *testing.T) {
	got := readmeFaults("[a](none/a.go), `none/b.go`, [c](https://none.example/), [d](server/doc.go)\n" +
		"`NoSuch` in\n  [server/server.go](server/server.go), `readmeFaults` in [x](server/readme_test.go)")
	want := "none/a.go does not exist; none/b.go does not exist; server/server.go declares no function NoSuch"
	if strings.Join(got, "; ") != want {
		t.Errorf("faults %q, want %q", got, want)
	}
}
