package shim

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime/debug"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"berth/oci/failure"
	"berth/oci/shimapi"
)

// fault makes an error of a kind that crosses the wire. Where it wraps a shortage it is of that
// kind, since the errno does not cross the wire.
func fault(kind shimapi.Kind, format string, args ...any) error {
	return wireError(kind, fmt.Errorf(format, args...))
}

// isOurShortage tells whether an error wraps a shortage of this process or of the kernel, which
// passes. A full disk is none: it may stay full, and one log that can't be made must not keep the
// other containers of a dead shim without another.
func isOurShortage(err error) bool { return failure.IsShortage(err) && !errors.Is(err, unix.ENOSPC) }

func wireError(kind shimapi.Kind, err error) *shimapi.Error {
	if isOurShortage(err) {
		kind = shimapi.KindShortage
	}
	return &shimapi.Error{Kind: kind, Message: err.Error()}
}

func asWireError(err error) *shimapi.Error {
	var e *shimapi.Error
	if errors.As(err, &e) {
		return e
	}
	return wireError(shimapi.KindInternal, err)
}

func stack() string { return string(debug.Stack()) }

// wrapping matches what libcontainer adds to an error about its own steps.
var wrapping = []string{
	"unable to start container process: ",
	"unable to create new parent process: ",
	"error during container init: ",
	"error executing setns process: ",
	"runc init error(s): ",
}

// reasons are libcontainer's errors for a command that can't be executed, and the text that
// berth gives instead. They are compiled when first needed, because the first process of
// every container also runs the initialization of this package.
var reasons = sync.OnceValue(func() []reason {
	return []reason{
		{regexp.MustCompile(`.*chdir to cwd \((".*")\) set in config\.json failed: (.*)`), `working directory $1: $2`},
		{regexp.MustCompile(`^mkdir (/.*): (.*)$`), `working directory "$1": $2`}, // it makes a missing one
		{regexp.MustCompile(`^exec: (".*?"): (?:stat .*?: |lstat .*?: )?(.*)$`), `command $1: $2`},
	}
})

type reason struct {
	said  *regexp.Regexp
	plain string
}

// startFault converts libcontainer's error about a process that could not be started into
// one that names the file and the reason. Errors from inside the container (its command,
// directory, user, mounts) are of KindStartFailed, because the user can mend them; all
// others are internal.
func startFault(err error) error {
	if e := (*shimapi.Error)(nil); errors.As(err, &e) {
		return e
	}
	text := err.Error()
	kind := shimapi.KindInternal
	if strings.Contains(text, wrapping[2]) || strings.Contains(text, "exec: ") || strings.Contains(text, "OOM-killed") {
		kind = shimapi.KindStartFailed
	}
	for _, w := range wrapping {
		text = strings.ReplaceAll(text, w, "")
	}
	text = strings.TrimSpace(text)
	for _, r := range reasons() {
		if r.said.MatchString(text) {
			text = r.said.ReplaceAllString(text, r.plain)
			kind = shimapi.KindStartFailed
			break
		}
	}
	return &shimapi.Error{Kind: kind, Message: text}
}

func isGone(err error) bool {
	return errors.Is(err, os.ErrProcessDone) || errors.Is(err, os.ErrNotExist)
}
