package failure

import "fmt"

// failure has the text of err and matches err and kind.
type failure struct{ err, kind error }

// New is fmt.Errorf for an error that also matches kind.
func New(kind error, format string, args ...any) error {
	return &failure{fmt.Errorf(format, args...), kind}
}

func (f *failure) Error() string { return f.err.Error() }

func (f *failure) Unwrap() []error { return []error{f.err, f.kind} }
