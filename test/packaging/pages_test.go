package packaging

import (
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// pages are those that an operator reads, from this directory.
func pages(t *testing.T) []string {
	t.Helper()
	found, err := filepath.Glob("../../hack/docs/*.md")
	if err != nil || len(found) == 0 {
		t.Fatalf("pages %q: %v", found, err)
	}
	return append([]string{"../../README.md"}, found...)
}

// commandsOf are the lines of a page's code blocks: those that are indented by four spaces
// and those between fences, unless these say that it is text. Comments are cut off; a line
// that ends with a backslash goes on.
func commandsOf(text string) (commands []string) {
	fenced, drawn, before, open := false, false, "", ""
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, " \n")
		if after, ok := strings.CutPrefix(strings.TrimSpace(line), "```"); ok {
			fenced, drawn, before = !fenced, !fenced && after == "text", line
			continue
		}
		// A paragraph's or a list's continued line is no code.
		indented := strings.HasPrefix(line, "    ") && (before == "" || strings.HasPrefix(before, "    "))
		before = line
		if line == "" || drawn || !fenced && !indented {
			continue
		}
		line = open + strings.TrimSpace(comment.ReplaceAllString(line, ""))
		if cut, more := strings.CutSuffix(line, `\`); more {
			open = cut
			continue
		}
		if open = ""; line != "" {
			commands = append(commands, line)
		}
	}
	return commands
}

var comment = regexp.MustCompile(`(^|\s)#\s.*$`)

func TestCommandsOfAPage(t *testing.T) {
	const page = "# Title\n\nText with `code`,\n    continued.\n\n    one --flag   # comment\n    two \\\n      more\n\n    three '#x'\n\n- item\n\n```sh\nfour\n# comment\n```\n    no code\n\n```text\na drawing\n```\n"
	if got, want := commandsOf(page), []string{"one --flag", "two more", "three '#x'", "four"}; !slices.Equal(got, want) {
		t.Errorf("commands are %q, want %q", got, want)
	}
}

// Each command of a page is run by a test, or is said to be run by none and why; and each
// that the table has is on its page.
func TestEveryDocumentedCommandHasARow(t *testing.T) {
	rows := map[[2]string]bool{}
	for _, d := range documentation {
		key := [2]string{d.page, d.command}
		if rows[key] {
			t.Errorf("%s: %q has two rows", d.page, d.command)
		}
		rows[key] = true
		if d.where != here && d.why == "" {
			t.Errorf("%s: %q is not run here, and there is no reason", d.page, d.command)
		}
	}
	for _, page := range pages(t) {
		name := filepath.Base(page)
		for _, c := range commandsOf(read(t, ".", page)) {
			key := [2]string{name, c}
			if _, ok := rows[key]; !ok {
				t.Errorf("%s has the command %q, which no row of documentation runs or excuses", name, c)
				continue
			}
			rows[key] = false
		}
	}
	for key, unseen := range rows {
		if unseen {
			t.Errorf("%s has no command %q", key[0], key[1])
		}
	}
}

var inline = regexp.MustCompile("`([^`\n]+)`")

// What stands between the lines exists as well: targets of make, commands of berth, keys
// of the configuration.
func TestDocumentedNamesExist(t *testing.T) {
	berth := "../../bin/berth"
	if _, err := os.Stat(berth); err != nil {
		t.Skip("no bin/berth: run make build first")
	}
	usage := output(t, berth, "help")
	makefile := read(t, "../..", "Makefile")
	for _, page := range pages(t) {
		for _, m := range inline.FindAllStringSubmatch(read(t, ".", page), -1) {
			words := strings.Fields(m[1])
			for len(words) > 1 && strings.Contains(words[0], "=") {
				words = words[1:] // the environment
			}
			if len(words) < 2 {
				continue
			}
			switch words[0] {
			case "make":
				if !regexp.MustCompile(`(?m)^([a-z -]+ )?` + words[1] + `( [a-z -]+)?:`).MatchString(makefile) {
					t.Errorf("%s: no target %s in the Makefile", page, m[1])
				}
			case "berth":
				if !strings.Contains(usage, "\n  "+words[1]+" ") {
					t.Errorf("%s: no command %q of berth:\n%s", page, m[1], usage)
				}
			}
		}
	}
}

// The tables that lead from other runtimes' keys name keys that there are.
func TestMigrationNamesKeys(t *testing.T) {
	file := "\n" + read(t, "../../hack", "config.toml")
	key, seen := regexp.MustCompile("`([a-z_]+)`"), 0
	for line := range strings.Lines(read(t, "../../hack/docs", "migrate.md")) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		for _, m := range key.FindAllStringSubmatch(cells[2], -1) {
			seen++
			// A key of the node, or one of a runtime's table, which are explained in comments.
			if !strings.Contains(file, "\n"+m[1]+" = ") && !strings.Contains(file, "\n#   "+m[1]+": ") {
				t.Errorf("%s is no key of the configuration: %s", m[1], line)
			}
		}
	}
	if seen < 20 {
		t.Errorf("the tables name %d keys: are they read right?", seen)
	}
}

// ofLibraries are errors that berth passes on.
var ofLibraries = []string{"TLS handshake", "x509:"}

// Each message that the page on errors explains is one that a program may print.
func TestExplainedErrorsAreInTheSource(t *testing.T) {
	for line := range strings.Lines(read(t, "../../hack/docs", "troubleshooting.md")) {
		cells := strings.Split(line, "|")
		if len(cells) < 4 {
			continue
		}
		for _, m := range inline.FindAllStringSubmatch(cells[1], -1) {
			if slices.Contains(ofLibraries, m[1]) {
				continue
			}
			out, err := exec.Command("grep", "-rlF", "--include=*.go", "--exclude=*_test.go", "-e", m[1],
				"../../cmd", "../../server", "../../cri", "../../sandbox", "../../image", "../../cni", "../../oci").Output()
			if err != nil || len(out) == 0 {
				t.Errorf("no program says %q", m[1])
			}
		}
	}
}
