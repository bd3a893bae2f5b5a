package oci

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// Each name the CRI has must give the number the same name has in the kernel.
func TestSignalNumbersAgreeWithTheirNames(t *testing.T) {
	aliases := map[string]string{"SIGCLD": "SIGCHLD", "SIGIOT": "SIGABRT", "SIGPOLL": "SIGIO"}
	for value, enum := range runtimeapi.Signal_name {
		s := runtimeapi.Signal(value)
		got, err := SignalNumber(s)
		if err != nil {
			t.Errorf("%s: %v", enum, err)
			continue
		}
		name := strings.TrimPrefix(enum, "SIGNAL_")
		if name == "RUNTIME_DEFAULT" {
			continue
		}
		if a, ok := aliases[name]; ok {
			name = a
		}
		text := strings.NewReplacer("PLUS", "+", "MINUS", "-").Replace(name)
		want := int(unix.SignalNum(name))
		if strings.HasPrefix(name, "SIGRT") {
			want = realTime(strings.TrimPrefix(text, "SIG"))
		}
		if got != want || got == 0 {
			t.Errorf("%s: got %d, want %d", enum, got, want)
		}
		if parsed, err := ParseSignal(text); err != nil || parsed != got {
			t.Errorf("ParseSignal(%q) = %d, %v", text, parsed, err)
		}
		if back, _ := SignalNumber(SignalOf(got)); back != got {
			t.Errorf("%s: %d comes back as %d", enum, got, back)
		}
	}
}

func TestSignalKnownNumbers(t *testing.T) {
	for s, want := range map[runtimeapi.Signal]int{
		runtimeapi.Signal_SIGNAL_SIGTERM: 15, runtimeapi.Signal_SIGNAL_SIGKILL: 9,
		runtimeapi.Signal_SIGNAL_SIGRTMIN: 34, runtimeapi.Signal_SIGNAL_SIGRTMINPLUS1: 35,
		runtimeapi.Signal_SIGNAL_SIGRTMINPLUS15: 49, runtimeapi.Signal_SIGNAL_SIGRTMAXMINUS14: 50,
		runtimeapi.Signal_SIGNAL_SIGRTMAX: 64, runtimeapi.Signal_SIGNAL_RUNTIME_DEFAULT: 0,
	} {
		if got, err := SignalNumber(s); err != nil || got != want {
			t.Errorf("%s: got %d, %v", s, got, err)
		}
		if back := SignalOf(want); back != s {
			t.Errorf("%d: got %s, want %s", want, back, s)
		}
	}
	if _, err := SignalNumber(99); !errors.Is(err, ErrInvalid) {
		t.Errorf("got %v", err)
	}
}

func TestParseSignal(t *testing.T) {
	for text, want := range map[string]int{
		"SIGTERM": 15, "term": 15, "15": 15, "SIGRTMIN+3": 37, "RTMIN+3": 37, "rtmax-2": 62,
		"RTMIN+30": 64, "64": 64, "SIGUSR1": 10, " SIGQUIT ": 3,
	} {
		if got, err := ParseSignal(text); err != nil || got != want {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
	for _, text := range []string{"", "0", "-1", "65", "SIG", "SIGFOO", "RTMIN-1", "RTMIN+31", "RTMAX+1", "RTMIN+", "RUNTIME_DEFAULT", "SIGNAL_SIGTERM", "99999999999999999999"} {
		if got, err := ParseSignal(text); !errors.Is(err, ErrInvalid) {
			t.Errorf("%q: got %d, %v", text, got, err)
		}
	}
}

func TestStopSignal(t *testing.T) {
	for _, c := range []struct {
		config runtimeapi.Signal
		image  string
		want   int
		bad    bool
	}{
		{0, "", 15, false}, {0, "SIGQUIT", 3, false}, {runtimeapi.Signal_SIGNAL_SIGINT, "SIGQUIT", 2, false},
		{0, "nonsense", 15, true}, {99, "", 15, true},
	} {
		got, err := StopSignal(&runtimeapi.ContainerConfig{StopSignal: c.config}, c.image)
		if got != c.want || (err != nil) != c.bad {
			t.Errorf("%v %q: got %d, %v", c.config, c.image, got, err)
		}
	}
}
