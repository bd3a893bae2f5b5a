package config

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"time"
)

// Flags registers one flag per key with fs, which is to be parsed by the
// caller, and returns the function that applies to a Config what was given.
func Flags(fs *flag.FlagSet) (apply func(*Config)) {
	given := Default()
	fields := fieldsByKey(&given)
	t := reflect.TypeFor[Config]()
	for i := range t.NumField() {
		tag := t.Field(i).Tag
		register(fs, flagName(tag.Get("toml")), tag.Get("help"), fields[tag.Get("toml")])
	}
	return func(c *Config) {
		into := fieldsByKey(c)
		fs.Visit(func(f *flag.Flag) {
			if field, ok := into[strings.ReplaceAll(f.Name, "-", "_")]; ok {
				field.Set(fields[strings.ReplaceAll(f.Name, "-", "_")])
			}
		})
	}
}

func flagName(key string) string { return strings.ReplaceAll(key, "_", "-") }

// register makes a flag that writes to field, whose value now is the default.
func register(fs *flag.FlagSet, name, help string, field reflect.Value) {
	switch p := field.Addr().Interface().(type) {
	case *time.Duration:
		fs.DurationVar(p, name, *p, help)
	case *string:
		fs.StringVar(p, name, *p, help)
	case *bool:
		fs.BoolVar(p, name, *p, help)
	case *int:
		fs.IntVar(p, name, *p, help)
	case *[]string:
		fs.Var(&listFlag{list: p}, name, help+" (commas between, or given again)")
	case *map[string]Runtime:
		fs.Var(runtimeFlag{p}, name, help+` (NAME={type="builtin"}, or given again)`)
	}
}

// listFlag collects a flag given more than once, or with commas; the first use
// replaces the default.
type listFlag struct {
	list *[]string
	set  bool
}

// String implements [flag.Value].
func (l *listFlag) String() string {
	if l.list == nil {
		return ""
	}
	return strings.Join(*l.list, ",")
}

// Set implements [flag.Value].
func (l *listFlag) Set(s string) error {
	if !l.set {
		*l.list, l.set = []string{}, true
	}
	for item := range strings.SplitSeq(s, ",") {
		if item != "" {
			*l.list = append(*l.list, item)
		}
	}
	return nil
}

// suggestion names the key that was probably meant, for the end of an error.
func suggestion(key string, known map[string]reflect.Value) string {
	if advice := replaced[key]; advice != "" {
		return "; " + advice
	}
	best, distance := "", 1+len(key)/3
	for name := range known {
		if d := editDistance(key, name); d < distance || d == distance && name < best {
			best, distance = name, d
		}
	}
	if best == "" {
		return "; `berthd --print-config` lists the keys there are"
	}
	return fmt.Sprintf("; did you mean %s?", best)
}

// replaced says of each key that there was what to write instead.
var replaced = map[string]string{
	"runtime_handlers":                "write a table for each handler, such as [runtime.runc] with the line type = \"builtin\"",
	"drain_timeout":                   `drain_timeout is now timeouts = ["drain=10s"]`,
	"nri_plugin_registration_timeout": `nri_plugin_registration_timeout is now nri_timeouts = ["register=5s"]`,
	"nri_plugin_request_timeout":      `nri_plugin_request_timeout is now nri_timeouts = ["request=2s"]`,
	"stream_tls_min_version":          `stream_tls_min_version is now the end of stream_tls, such as stream_tls = ["self-signed", "min=1.3"]`,
}

// FlagAdvice says what to write instead of a flag of args whose key there was, for the end
// of the error of a command line; "" when there is none.
func FlagAdvice(args []string) string {
	for _, arg := range args {
		name, _, _ := strings.Cut(strings.TrimLeft(arg, "-"), "=")
		if advice := replaced[strings.ReplaceAll(name, "-", "_")]; advice != "" && strings.HasPrefix(arg, "-") {
			return "; " + advice
		}
	}
	return ""
}

// editDistance is Levenshtein's: single-character changes from a to b.
func editDistance(a, b string) int {
	row := make([]int, len(b)+1)
	for j := range row {
		row[j] = j
	}
	for i := range len(a) {
		diagonal := row[0]
		row[0] = i + 1
		for j := range len(b) {
			change := diagonal
			if a[i] != b[j] {
				change++
			}
			diagonal = row[j+1]
			row[j+1] = min(change, row[j]+1, row[j+1]+1)
		}
	}
	return row[len(b)]
}

// inOrder joins errors in the order of their text, so that a file with several
// mistakes reports them the same way each time; nil when there is none.
func inOrder(errs []error) error {
	slices.SortFunc(errs, func(a, b error) int { return cmp.Compare(a.Error(), b.Error()) })
	return errors.Join(errs...)
}
