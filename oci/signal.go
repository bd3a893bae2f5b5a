package oci

import (
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Real-time signals as the C library counts them: it keeps 32 and 33 to itself.
const (
	sigRTMin = 34
	sigRTMax = 64
)

// signalNumbers says which kernel signal each of the CRI's is, real-time ones
// aside. The CRI's own numbers are alphabetical and its names have changed
// between versions, so neither can be used in place of this table.
var signalNumbers = map[runtimeapi.Signal]unix.Signal{
	runtimeapi.Signal_SIGNAL_SIGABRT:   unix.SIGABRT,
	runtimeapi.Signal_SIGNAL_SIGALRM:   unix.SIGALRM,
	runtimeapi.Signal_SIGNAL_SIGBUS:    unix.SIGBUS,
	runtimeapi.Signal_SIGNAL_SIGCHLD:   unix.SIGCHLD,
	runtimeapi.Signal_SIGNAL_SIGCLD:    unix.SIGCHLD,
	runtimeapi.Signal_SIGNAL_SIGCONT:   unix.SIGCONT,
	runtimeapi.Signal_SIGNAL_SIGFPE:    unix.SIGFPE,
	runtimeapi.Signal_SIGNAL_SIGHUP:    unix.SIGHUP,
	runtimeapi.Signal_SIGNAL_SIGILL:    unix.SIGILL,
	runtimeapi.Signal_SIGNAL_SIGINT:    unix.SIGINT,
	runtimeapi.Signal_SIGNAL_SIGIO:     unix.SIGIO,
	runtimeapi.Signal_SIGNAL_SIGIOT:    unix.SIGABRT,
	runtimeapi.Signal_SIGNAL_SIGKILL:   unix.SIGKILL,
	runtimeapi.Signal_SIGNAL_SIGPIPE:   unix.SIGPIPE,
	runtimeapi.Signal_SIGNAL_SIGPOLL:   unix.SIGIO,
	runtimeapi.Signal_SIGNAL_SIGPROF:   unix.SIGPROF,
	runtimeapi.Signal_SIGNAL_SIGPWR:    unix.SIGPWR,
	runtimeapi.Signal_SIGNAL_SIGQUIT:   unix.SIGQUIT,
	runtimeapi.Signal_SIGNAL_SIGSEGV:   unix.SIGSEGV,
	runtimeapi.Signal_SIGNAL_SIGSTKFLT: unix.SIGSTKFLT,
	runtimeapi.Signal_SIGNAL_SIGSTOP:   unix.SIGSTOP,
	runtimeapi.Signal_SIGNAL_SIGSYS:    unix.SIGSYS,
	runtimeapi.Signal_SIGNAL_SIGTERM:   unix.SIGTERM,
	runtimeapi.Signal_SIGNAL_SIGTRAP:   unix.SIGTRAP,
	runtimeapi.Signal_SIGNAL_SIGTSTP:   unix.SIGTSTP,
	runtimeapi.Signal_SIGNAL_SIGTTIN:   unix.SIGTTIN,
	runtimeapi.Signal_SIGNAL_SIGTTOU:   unix.SIGTTOU,
	runtimeapi.Signal_SIGNAL_SIGURG:    unix.SIGURG,
	runtimeapi.Signal_SIGNAL_SIGUSR1:   unix.SIGUSR1,
	runtimeapi.Signal_SIGNAL_SIGUSR2:   unix.SIGUSR2,
	runtimeapi.Signal_SIGNAL_SIGVTALRM: unix.SIGVTALRM,
	runtimeapi.Signal_SIGNAL_SIGWINCH:  unix.SIGWINCH,
	runtimeapi.Signal_SIGNAL_SIGXCPU:   unix.SIGXCPU,
	runtimeapi.Signal_SIGNAL_SIGXFSZ:   unix.SIGXFSZ,
}

// SignalNumber is the kernel's number of a CRI signal, and 0 for
// SIGNAL_RUNTIME_DEFAULT. The error wraps [ErrInvalid].
func SignalNumber(s runtimeapi.Signal) (int, error) {
	const rt = runtimeapi.Signal_SIGNAL_SIGRTMIN // RTMIN, RTMIN+1 … RTMAX follow without a gap
	n, ok := signalNumbers[s]
	switch {
	case s == runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT:
		return 0, nil
	case ok:
		return int(n), nil
	case s >= rt && s <= runtimeapi.Signal_SIGNAL_SIGRTMAX:
		return sigRTMin + int(s-rt), nil
	}
	return 0, invalid("stop_signal: the CRI has no signal %d", s)
}

// SignalOf is the CRI's signal of a kernel number, SIGNAL_RUNTIME_DEFAULT if
// there is none.
func SignalOf(number int) runtimeapi.Signal {
	if number >= sigRTMin && number <= sigRTMax {
		return runtimeapi.Signal_SIGNAL_SIGRTMIN + runtimeapi.Signal(number-sigRTMin)
	}
	// Of two names for one number the usual one (ABRT, CHLD, IO) comes first.
	for s := runtimeapi.Signal(1); s < runtimeapi.Signal_SIGNAL_SIGRTMIN; s++ {
		if int(signalNumbers[s]) == number {
			return s
		}
	}
	return runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT
}

// ParseSignal reads a signal as images write it: SIGTERM, term, 15, RTMIN+3,
// SIGRTMAX-2. The error wraps [ErrInvalid].
func ParseSignal(text string) (int, error) {
	bad := invalid("%s is no signal: write a name such as SIGTERM or SIGRTMIN+3, or a number from 1 to %d", clip(text), sigRTMax)
	if n, err := strconv.Atoi(text); err == nil {
		if n < 1 || n > sigRTMax {
			return 0, bad
		}
		return n, nil
	}
	name := strings.TrimPrefix(strings.ToUpper(strings.TrimSpace(text)), "SIG")
	for s, n := range signalNumbers {
		if strings.TrimPrefix(s.String(), "SIGNAL_SIG") == name {
			return int(n), nil
		}
	}
	if n := realTime(name); n >= sigRTMin && n <= sigRTMax {
		return n, nil
	}
	return 0, bad
}

// realTime reads RTMIN, RTMIN+n, RTMAX and RTMAX-n; 0 for anything else.
func realTime(name string) int {
	for _, f := range []struct {
		prefix, sign string
		base, step   int
	}{{"RTMIN", "+", sigRTMin, 1}, {"RTMAX", "-", sigRTMax, -1}} {
		rest, ok := strings.CutPrefix(name, f.prefix)
		if !ok {
			continue
		}
		if rest == "" {
			return f.base
		}
		if n, err := strconv.ParseUint(strings.TrimPrefix(rest, f.sign), 10, 8); err == nil && strings.HasPrefix(rest, f.sign) {
			return f.base + f.step*int(n)
		}
	}
	return 0
}

// StopSignal is what StopContainer sends first: the config's signal, else the
// image's STOPSIGNAL, else SIGTERM. It is SIGTERM with every error.
func StopSignal(c *runtimeapi.ContainerConfig, image string) (int, error) {
	n, err := SignalNumber(c.GetStopSignal())
	if err == nil && n == 0 && image != "" {
		n, err = ParseSignal(image)
	}
	if err != nil || n == 0 {
		return int(unix.SIGTERM), err
	}
	return n, nil
}
