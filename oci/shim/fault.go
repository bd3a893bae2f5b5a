package shim

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"runtime/debug"
	"strings"

	"berth/oci/shimapi"
)

// fault makes an error of a kind that crosses the wire.
func fault(kind shimapi.Kind, format string, args ...any) error {
	return &shimapi.Error{Kind: kind, Message: fmt.Errorf(format, args...).Error()}
}

func asWireError(err error) *shimapi.Error {
	var e *shimapi.Error
	if errors.As(err, &e) {
		return e
	}
	return &shimapi.Error{Kind: shimapi.KindInternal, Message: err.Error()}
}

func stack() string { return string(debug.Stack()) }

// wrapping is what libcontainer says about its own workings around the reason.
var wrapping = []string{
	"unable to start container process: ",
	"unable to create new parent process: ",
	"error during container init: ",
	"error executing setns process: ",
	"runc init error(s): ",
}

var (
	badCwd  = regexp.MustCompile(`chdir to cwd \((".*")\) set in config\.json failed: (.*)`)
	noCwd   = regexp.MustCompile(`^mkdir (/.*): (.*)$`) // libcontainer makes a missing one
	badExec = regexp.MustCompile(`^exec: (".*?"): (?:stat .*?: |lstat .*?: )?(.*)$`)
)

// startFault turns libcontainer's error about a process that could not be
// started into one that names file and reason. What the container's own init
// said (its command, directory, user, mounts) is the user's to mend; the rest is
// internal.
func startFault(err error) error {
	text := err.Error()
	kind := shimapi.KindInternal
	if strings.Contains(text, wrapping[2]) || strings.Contains(text, "exec: ") || strings.Contains(text, "OOM-killed") {
		kind = shimapi.KindStartFailed
	}
	for _, w := range wrapping {
		text = strings.ReplaceAll(text, w, "")
	}
	text = strings.TrimSpace(text)
	if m := badCwd.FindStringSubmatch(text); m != nil {
		kind = shimapi.KindStartFailed
		text = fmt.Sprintf("working directory %s: %s", m[1], m[2])
	} else if m := noCwd.FindStringSubmatch(text); m != nil {
		text = fmt.Sprintf("working directory %q: %s", m[1], m[2])
	} else if m := badExec.FindStringSubmatch(text); m != nil {
		text = fmt.Sprintf("command %s: %s", m[1], m[2])
	}
	return &shimapi.Error{Kind: kind, Message: text}
}

func isGone(err error) bool {
	return errors.Is(err, os.ErrProcessDone) || errors.Is(err, os.ErrNotExist)
}
