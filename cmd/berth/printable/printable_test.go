package printable

import (
	"encoding/json"
	"strconv"
	"strings"
	"testing"
	"unicode/utf8"
)

// hostile has one of everything that a terminal obeys or an eye can't see.
const hostile = "a\x1b[2J\x1b]0;title\a\r\nMost likely: fine\x00\x7f\u009b31m\u202edlrow\u2066\u200b\ufeff\U000e0041\xff\xc3é\t界"

// ANSI escapes, C1 controls, bidirectional overrides and bytes that are no UTF-8
// reach no terminal unescaped.
func TestAttackTextForATerminal(t *testing.T) {
	got := Text(hostile)
	const want = `a\x1b[2J\x1b]0;title\a\r\nMost likely: fine\x00\x7f\u009b31m\u202edlrow\u2066\u200b\ufeff\U000e0041\xff\xc3é\t界`
	if got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
	for _, r := range got {
		if !strconv.IsPrint(r) {
			t.Errorf("%q is left in %q", r, got)
		}
	}
	if plain := `C:\dir "x" é`; Text(plain) != plain {
		t.Errorf("plain text became %q", Text(plain))
	}
}

// JSON that a person looks at is as harmless, stays valid and means the same.
func TestAttackJSONForATerminal(t *testing.T) {
	value := map[string]string{hostile: hostile}
	document, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	out := JSON(document)
	for _, r := range string(out) {
		if !strconv.IsPrint(r) && r != '\n' {
			t.Errorf("%q is left in %s", r, out)
		}
	}
	if !utf8.Valid(JSON([]byte("\"\xff\""))) {
		t.Error("it is not UTF-8")
	}
	var before, after map[string]string
	if err := json.Unmarshal(document, &before); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(out, &after); err != nil {
		t.Fatalf("%v in %s", err, out)
	}
	for k, v := range before {
		if after[k] != v {
			t.Errorf("%q became %q", v, after[k])
		}
	}
}

func TestShort(t *testing.T) {
	if got := Short("short", 5); got != "short" {
		t.Errorf("got %q", got)
	}
	if got := Short(strings.Repeat("é", 3), 3); got != "é… (4 bytes more)" {
		t.Errorf("got %q", got)
	}
	if got := Short(strings.Repeat("\x80", 10), 6); !utf8.ValidString(got) || len(got) > 100 {
		t.Errorf("got %q", got)
	}
}
