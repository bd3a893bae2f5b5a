package hostcheck

import (
	"context"
	"fmt"
	"io"

	"berth/cmd/berth/printable"
	"berth/oci"
	"berth/server/config"
)

// Level is how bad a finding is.
type Level int

// The levels, in order.
const (
	Fine    Level = iota // nothing to do
	Limited              // pods run, something they may ask for is not to be had
	Broken               // no pod runs until this is mended
)

// String is the word a line starts with.
func (l Level) String() string { return [...]string{"ok", "limited", "BROKEN"}[l] }

// Finding is what one check saw.
type Finding struct {
	Level Level
	What  string // the thing looked at
	Seen  string // its state
	Do    string // what to change; "" when fine
}

// Run makes every check of a machine that is to run berthd with the configuration of file,
// of which read is the error.
func Run(ctx context.Context, cfg config.Config, file string, read error) []Finding {
	m := machine{cfg: cfg, file: file, read: read}
	m.host, m.hostErr = oci.DetectHost()
	findings := make([]Finding, 0, len(checks))
	for _, c := range checks {
		f := c.look(ctx, m)
		f.What = c.what
		findings = append(findings, f)
	}
	for _, f := range checkRegistries(ctx, m) {
		f.What = "registry"
		findings = append(findings, f)
	}
	return findings
}

// Write prints findings, one a line, and returns the worst level.
func Write(w io.Writer, findings []Finding) (Level, error) {
	worst := Fine
	for _, f := range findings {
		worst = max(worst, f.Level)
		do := ""
		if f.Do != "" {
			do = " → " + f.Do
		}
		if _, err := fmt.Fprintf(w, "%-8s %-13s %s%s\n", f.Level, f.What, printable.Text(f.Seen), printable.Text(do)); err != nil {
			return worst, err
		}
	}
	return worst, nil
}

// machine is what the checks look at: the configuration, and what berthd itself
// would find out about the host. The fields that were found before hostErr are set.
type machine struct {
	cfg     config.Config
	file    string // of the configuration
	read    error  // why it can't be read; cfg has what can
	host    oci.Host
	hostErr error
}

// check is one thing to look at.
type check struct {
	what string
	look func(context.Context, machine) Finding
}

func fine(format string, args ...any) Finding {
	return Finding{Level: Fine, Seen: fmt.Sprintf(format, args...)}
}

func limited(seen, do string) Finding { return Finding{Level: Limited, Seen: seen, Do: do} }

func broken(seen, do string) Finding { return Finding{Level: Broken, Seen: seen, Do: do} }
