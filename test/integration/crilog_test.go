package integration

import (
	"fmt"
	"os"
	"strings"
	"testing"
	"time"
)

// logLine is a line of a CRI log.
type logLine struct {
	At     time.Time
	Stream string
	Full   bool
	Text   string
}

func readLog(t *testing.T, file string) []logLine {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var out []logLine
	for line := range strings.Lines(string(data)) {
		l, err := parseLine(line)
		if err != nil {
			t.Fatalf("%s: %v", file, err)
		}
		out = append(out, l)
	}
	return out
}

// parseLine reads "2016-10-06T00:17:09.669794202Z stdout P text\n".
func parseLine(line string) (logLine, error) {
	if !strings.HasSuffix(line, "\n") {
		return logLine{}, fmt.Errorf("a line without its end: %q", line)
	}
	f := strings.SplitN(strings.TrimSuffix(line, "\n"), " ", 4)
	if len(f) != 4 {
		return logLine{}, fmt.Errorf("not a CRI log line: %q", line)
	}
	at, err := time.Parse(time.RFC3339Nano, f[0])
	if err != nil {
		return logLine{}, err
	}
	if f[1] != "stdout" && f[1] != "stderr" || f[2] != "F" && f[2] != "P" {
		return logLine{}, fmt.Errorf("bad stream or tag: %q", line)
	}
	return logLine{At: at, Stream: f[1], Full: f[2] == "F", Text: f[3]}, nil
}

// output is what the log has of a stream, put together again.
func output(lines []logLine, stream string) string {
	var b strings.Builder
	for _, l := range lines {
		if l.Stream == stream {
			b.WriteString(l.Text)
			if l.Full {
				b.WriteByte('\n')
			}
		}
	}
	return b.String()
}
