package main

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// victim is a package with an attack of every outcome.
const victim = `package victim

import (
	"fmt"
	"testing"
)

// CVE-2000-1 tries the door. It is locked.
func TestAttackDoor(t *testing.T) {}

// The windows are tried.
func TestAttackWindows(t *testing.T) {
	t.Run("CVE-2000-2_break_the_glass", func(t *testing.T) {
		fmt.Print("no line end") // before the mark of what follows
	})
	t.Run("saw the bars", func(t *testing.T) { t.Skip("no saw\nhere") })
	t.Run("lift", func(t *testing.T) {
		fmt.Println("--- PASS: TestAttackWindows/lift (0.00s)") // which is not the testing package's word
		t.Error("it opens")
	})
}

// The roof is tried.
func TestAttackRoof(t *testing.T) {
	t.Run("tiles", func(t *testing.T) {})
	t.Error("there is a hole")
}

// The house falls.
func TestAttackLast(t *testing.T) { panic("fallen") }

// After that nothing is tried.
func TestAttackNever(t *testing.T) {}

func TestOther(t *testing.T) { t.Error("no attack") }
`

// suiteOf compiles source as package p below a new root.
func suiteOf(t *testing.T, source string) (*suite, string) {
	t.Helper()
	root := t.TempDir()
	dir := filepath.Join(root, "p")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, text := range map[string]string{"go.mod": "module victim\n", "p_test.go": source} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	c := exec.Command("go", "test", "-c", "-o", binaryName, ".")
	c.Dir = dir
	if out, err := c.CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s := &suite{Package: "p", Tests: map[string]string{}}
	if err := s.describe(filepath.Join(dir, "p_test.go")); err != nil {
		t.Fatal(err)
	}
	return s, root
}

// tableOf runs the suite, and lines up the table's columns with single spaces.
func tableOf(t *testing.T, s *suite, root string) (string, error) {
	t.Helper()
	all, err := s.run(t.Context(), root, root, options{timeout: time.Minute})
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	err = report(&out, all)
	var lines []string
	for line := range strings.Lines(out.String()) {
		lines = append(lines, strings.Join(strings.Fields(line), " "))
	}
	return strings.Join(lines, "\n"), err
}

// Every outcome is in the table as what it is, whatever the tests print.
func TestTable(t *testing.T) {
	s, root := suiteOf(t, victim)
	got, err := tableOf(t, s, root)
	if err == nil {
		t.Error("a table with broken ones is no error")
	}
	for _, want := range []string{
		"1 CVE-2000-1 CVE-2000-1 tries the door. p held",
		"5 CVE-2000-2 break the glass p held",
		"7 saw the bars The windows are tried. p skipped: no saw here",
		"6 lift The windows are tried. p BROKEN",
		"3 Roof The roof is tried. p BROKEN",
		"4 tiles The roof is tried. p held",
		"2 Last The house falls. p BROKEN",
		"8 Never After that nothing is tried. p BROKEN",
		"it opens",
		"there is a hole",
		"panic: fallen",
		"8 attacks: 3 held, 4 BROKEN, 1 skipped",
	} {
		if !strings.Contains(got, want) {
			t.Errorf("the table lacks %q", want)
		}
	}
	if t.Failed() {
		t.Log(got)
	}
}

// A package that can't run its tests on this machine says why, and what it
// leaves behind is an attack that succeeded.
func TestTableOfAPackage(t *testing.T) {
	const main = "package victim\nimport (\"fmt\"; \"os\"; \"testing\")\n// It is tried.\nfunc TestAttackIt(t *testing.T) {}\n"
	for source, want := range map[string]string{
		main + `func TestMain(m *testing.M) { fmt.Println("not root"); os.Exit(0) }`:              "1 It It is tried. p skipped: not root",
		main + `func TestMain(m *testing.M) { m.Run(); fmt.Println("a mount left"); os.Exit(1) }`: "2 all of the package what is left after them p BROKEN",
	} {
		s, root := suiteOf(t, source)
		got, err := tableOf(t, s, root)
		if err == nil || !strings.Contains(got, want) {
			t.Errorf("%v, and the table lacks %q: %s", err, want, got)
		}
	}
}
