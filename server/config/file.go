package config

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/BurntSushi/toml"
)

// Load reads file over the defaults, then each file of its drop-in directory, see
// [DropIns]. [DefaultFile] may be absent, any other file may not. Errors name the file,
// the line and the key; mistakes of all files are told at once.
func Load(file string) (Config, error) {
	c := Default()
	files, _, err := DropIns(file)
	if err != nil {
		return c, fmt.Errorf("configuration: %w", err)
	}
	var errs []error
	for _, name := range append([]string{file}, files...) {
		text, err := os.ReadFile(name)
		switch {
		case errors.Is(err, fs.ErrNotExist) && name == DefaultFile:
		case err != nil:
			errs = append(errs, fmt.Errorf("configuration: %w", err))
		default:
			errs = append(errs, c.read(name, string(text)))
		}
	}
	return c, errors.Join(errs...)
}

// DropIns are the files that add to a configuration: of config.toml those in config.d
// beside it whose names end with .toml and do not begin with a dot, in lexical order. A
// key in a later file replaces that of an earlier one, lists as a whole. Ignored are the
// others, of which an operator may think that they are read.
func DropIns(file string) (files, ignored []string, err error) {
	dir := strings.TrimSuffix(file, ".toml") + ".d"
	entries, err := os.ReadDir(dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, nil, err
	}
	for _, e := range entries { // ReadDir sorts
		if name := e.Name(); strings.HasSuffix(name, ".toml") && !strings.HasPrefix(name, ".") {
			files = append(files, filepath.Join(dir, name))
		} else {
			ignored = append(ignored, filepath.Join(dir, name))
		}
	}
	return files, ignored, nil
}

// read sets what the TOML text names; file is for the errors.
func (c *Config) read(file, text string) error {
	var values map[string]any
	if _, err := toml.Decode(text, &values); err != nil {
		var p toml.ParseError
		if errors.As(err, &p) {
			return fmt.Errorf("%s:%d: %s", file, p.Position.Line, p.Message)
		}
		return fmt.Errorf("%s: %w", file, err)
	}
	keys := fieldsByKey(c)
	var errs []error
	for key, value := range values {
		at := fmt.Sprintf("%s:%d: %s", file, lineOf(text, key), key)
		field, known := keys[key]
		if !known {
			errs = append(errs, fmt.Errorf("%s: unknown key%s", at, suggestion(key, keys)))
			continue
		}
		if err := assign(field, value); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", at, err))
		}
	}
	return inOrder(errs)
}

// Print writes c as a configuration file, each key under its help text.
func (c Config) Print(w io.Writer) error {
	v := reflect.ValueOf(c)
	for i := range v.NumField() {
		f := v.Type().Field(i)
		help := f.Tag.Get("help")
		switch part := f.Tag.Get("reload"); part {
		case "":
		case "yes":
			help += " (SIGHUP applies a change)"
		default:
			help += " (SIGHUP applies a change of " + part + " alone)"
		}
		if tables, ok := v.Field(i).Interface().(map[string]Runtime); ok {
			_, err := fmt.Fprintf(w, "# %s\n%s", help, literalRuntimes(tables))
			return err // what follows a table would belong to it
		}
		if _, err := fmt.Fprintf(w, "# %s\n%s = %s\n\n", help, f.Tag.Get("toml"), literal(v.Field(i))); err != nil {
			return err
		}
	}
	return nil
}

// fieldsByKey maps each key of the file to its settable field in c.
func fieldsByKey(c *Config) map[string]reflect.Value {
	v := reflect.ValueOf(c).Elem()
	fields := make(map[string]reflect.Value, v.NumField())
	for i := range v.NumField() {
		fields[v.Type().Field(i).Tag.Get("toml")] = v.Field(i)
	}
	return fields
}

// assign sets a field from a value as TOML decodes it.
func assign(field reflect.Value, value any) error {
	switch into := field.Addr().Interface().(type) {
	case *time.Duration:
		return assignDuration(into, value)
	case *[]string:
		return assignList(into, value)
	case *map[string]Runtime:
		return assignRuntimes(into, value)
	case *int:
		n, ok := value.(int64)
		if !ok {
			return fmt.Errorf("want a number, not %s", describe(value))
		}
		*into = int(n)
	case *bool:
		b, ok := value.(bool)
		if !ok {
			return fmt.Errorf("want true or false, not %s", describe(value))
		}
		*into = b
	case *string:
		s, ok := value.(string)
		if !ok {
			return fmt.Errorf("want a string in quotes, not %s", describe(value))
		}
		*into = s
	}
	return nil
}

func assignDuration(into *time.Duration, value any) error {
	s, ok := value.(string)
	d, err := time.ParseDuration(s)
	if !ok || err != nil {
		return fmt.Errorf(`want a duration such as "10s", not %s`, describe(value))
	}
	*into = d
	return nil
}

func assignList(into *[]string, value any) error {
	items, ok := value.([]any)
	if one, is := value.(string); is {
		items, ok = []any{one}, true
	}
	list := make([]string, 0, len(items))
	for _, item := range items {
		s, is := item.(string)
		ok = ok && is
		list = append(list, s)
	}
	if !ok {
		return fmt.Errorf(`want a list such as ["a", "b"], not %s`, describe(value))
	}
	*into = list
	return nil
}

// describe shows a wrong value short enough for an error.
func describe(value any) string {
	if _, table := value.(map[string]any); table {
		return "a table"
	}
	return literal(reflect.ValueOf(value))
}

// literal is v as TOML writes it.
func literal(v reflect.Value) string {
	switch x := v.Interface().(type) {
	case time.Duration:
		return quote(x.String())
	case string:
		return quote(x)
	case []string:
		quoted := make([]string, len(x))
		for i, s := range x {
			quoted[i] = quote(s)
		}
		return "[" + strings.Join(quoted, ", ") + "]"
	default:
		return fmt.Sprint(x)
	}
}

// quote writes a TOML basic string; Go's escapes would not all be TOML's.
func quote(s string) string {
	var b strings.Builder
	b.WriteByte('"')
	for _, r := range s {
		switch {
		case r == '"' || r == '\\':
			b.WriteByte('\\')
			b.WriteRune(r)
		case r < 0x20 || r == 0x7f:
			fmt.Fprintf(&b, `\u%04x`, r)
		default:
			b.WriteRune(r)
		}
	}
	b.WriteByte('"')
	return b.String()
}

// lineOf finds the line (from 1) that sets a top-level key or opens its table;
// the decoder keeps no positions of what it decoded.
func lineOf(text, key string) int {
	name := regexp.QuoteMeta(key)
	sets := regexp.MustCompile(`^\s*\[{0,2}\s*["']?` + name + `["']?\s*[=.\]]`)
	for i, line := range strings.Split(text, "\n") {
		if sets.MatchString(line) {
			return i + 1
		}
	}
	return 1
}
