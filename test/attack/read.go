package main

import (
	"bufio"
	"errors"
	"io"
	"regexp"
	"strings"
)

// mark begins the lines that the testing package writes about tests with
// -test.v=test2json, as no line of a test's own output does.
const mark = "\x16"

// outcome is how a test function or subtest ended.
type outcome struct {
	name   string
	status string   // PASS, FAIL, SKIP; "" when its end was not told
	output []string // what it printed, the last lines
}

// keptLines bounds what is kept of one test's output.
const keptLines = 60

// reader gathers what a test binary prints.
type reader struct {
	order   []string // names in the order of their start
	tests   map[string]*outcome
	outside outcome // what was printed before and after tests
	current *outcome
}

func newReader() *reader {
	r := &reader{tests: map[string]*outcome{}}
	r.current = &r.outside
	return r
}

var (
	header = regexp.MustCompile(`^=== (RUN|PAUSE|CONT|NAME) +(.*)$`)
	ending = regexp.MustCompile(`^--- (PASS|FAIL|SKIP): (.*) \([0-9.]+s\)$`)
)

func (r *reader) read(from io.Reader) error {
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

func (r *reader) line(line string) {
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
		r.current.status = m[1]
	} else {
		r.current = &r.outside
		r.current.say(about)
	}
}

// test finds a test by its name, "" being none.
func (r *reader) test(name string) *outcome {
	if name == "" {
		return &r.outside
	}
	if r.tests[name] == nil {
		r.tests[name] = &outcome{name: name}
		r.order = append(r.order, name)
	}
	return r.tests[name]
}

func (o *outcome) say(line string) {
	if len(line) > 2000 {
		line = line[:2000] + "…"
	}
	if o.output = append(o.output, line); len(o.output) > keptLines {
		o.output = o.output[1:]
	}
}
