package testlog

import (
	"bufio"
	"errors"
	"io"
	"regexp"
	"strconv"
	"strings"
)

// mark begins the lines that the testing package writes about tests with
// -test.v=test2json, as no line of a test's own output does.
const mark = "\x16"

// Outcome is how a test function or subtest ended.
type Outcome struct {
	Name    string
	Status  string   // PASS, FAIL, SKIP; "" when its end was not told
	Seconds float64  // how long it took
	Output  []string // what it printed, the last lines
}

// keptLines bounds what is kept of one test's output.
const keptLines = 60

// Reader gathers what a test binary prints.
type Reader struct {
	Order   []string // names in the order of their start
	Tests   map[string]*Outcome
	Outside Outcome        // what was printed before and after tests
	Ended   func(*Outcome) // nil, or called at the end of each test
	current *Outcome
}

// NewReader returns a reader that has read nothing.
func NewReader() *Reader {
	r := &Reader{Tests: map[string]*Outcome{}}
	r.current = &r.Outside
	return r
}

var (
	header = regexp.MustCompile(`^=== (RUN|PAUSE|CONT|NAME) +(.*)$`)
	ending = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (.*) \(([0-9.]+)s\)$`)
)

// Read reads to the end, and returns the error of from if that is another.
func (r *Reader) Read(from io.Reader) error {
	in := bufio.NewReader(from)
	for {
		line, err := in.ReadString('\n')
		if line != "" {
			r.line(strings.TrimSuffix(line, "\n"))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (r *Reader) line(line string) {
	// A test that printed without a line's end has the mark in the middle.
	text, about, marked := strings.Cut(line, mark)
	if text = strings.TrimSpace(text); text != "" {
		r.current.say(text)
	}
	if !marked {
		return
	}
	if m := header.FindStringSubmatch(about); m != nil {
		r.current = r.test(m[2])
	} else if m := ending.FindStringSubmatch(strings.TrimSpace(about)); m != nil {
		r.current = r.test(m[2])
		r.current.Status = m[1]
		r.current.Seconds, _ = strconv.ParseFloat(m[3], 64) // the expression admits digits and dots alone
		if r.Ended != nil {
			r.Ended(r.current)
		}
	} else {
		r.current = &r.Outside
		r.current.say(about)
	}
}

// test finds a test by its name, "" being none.
func (r *Reader) test(name string) *Outcome {
	if name == "" {
		return &r.Outside
	}
	if r.Tests[name] == nil {
		r.Tests[name] = &Outcome{Name: name}
		r.Order = append(r.Order, name)
	}
	return r.Tests[name]
}

func (o *Outcome) say(line string) {
	if len(line) > 2000 {
		line = line[:2000] + "…"
	}
	if o.Output = append(o.Output, line); len(o.Output) > keptLines {
		o.Output = o.Output[1:]
	}
}

// Failed reports whether the test failed, or broke off.
func (o *Outcome) Failed() bool { return o.Status != "PASS" && o.Status != "SKIP" }

// place is where a test says that a line is from.
var place = regexp.MustCompile(`^\S+\.go:\d+: `)

// Reason is what the test said last: why it was skipped.
func (o *Outcome) Reason() string {
	for i := len(o.Output) - 1; i >= 0; i-- {
		if at := place.FindString(o.Output[i]); at != "" || i == 0 {
			return strings.TrimPrefix(strings.Join(o.Output[i:], " "), at)
		}
	}
	return "no reason was printed"
}
