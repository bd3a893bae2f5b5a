package oci

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"
	"unicode/utf8"

	specs "github.com/opencontainers/runtime-spec/specs-go"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A spec with variables that are not UTF-8 is the same after its way through JSON,
// and so are the commands of execs in it.
func TestVariablesThroughJSON(t *testing.T) {
	const program = "/lib/init-1"
	for init, want := range map[string][]string{
		"":      {"/dev/.berth-init", "-e", "cmd", "arg"},
		program: {"/dev/.berth-init", "--", "/dev/.berth-init", "-e", "cmd", "arg"},
	} {
		in := baseInput()
		in.ctr.Config.Command, in.ctr.Config.Args = []string{"cmd"}, []string{"arg"}
		in.ctr.Config.Envs = []*runtimeapi.KeyValue{
			{Key: "A", Value: []byte("x\xff\x80é")}, {Key: "PLAIN", Value: []byte("é")}, {Key: bytesPrefix + "7", Value: []byte("y")},
		}
		if !NeedsBytes(in.ctr.Config) {
			t.Fatal("it is taken for UTF-8")
		}
		in.ctr.Init, in.ctr.Bytes = init, program
		spec, err := Spec(in.pod, in.ctr, in.img, in.host)
		if err != nil {
			t.Fatal(err)
		}
		var back specs.Spec
		if err := json.Unmarshal([]byte(asJSON(t, spec)), &back); err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(back.Process.Env, spec.Process.Env) || !slices.ContainsFunc(back.Process.Env, isCodeOf("A=x\xff\x80é")) ||
			!slices.ContainsFunc(back.Process.Env, isCodeOf(bytesPrefix+"7=y")) || !slices.Contains(back.Process.Env, "PLAIN=é") {
			t.Errorf("the variables are %q", back.Process.Env)
		}
		if !slices.Equal(back.Process.Args, want) {
			t.Errorf("the command is %q, want %q", back.Process.Args, want)
		}
		if got := ExecArgs(&back, []string{"ls"}); !slices.Equal(got, []string{"/dev/.berth-init", "-e", "ls"}) {
			t.Errorf("an exec's command is %q", got)
		}
		mounted := slices.IndexFunc(back.Mounts, func(m specs.Mount) bool { return m.Destination == "/dev/.berth-init" })
		if mounted < 0 || back.Mounts[mounted].Source != program {
			t.Errorf("the mounts are %v", back.Mounts)
		}
	}
}

// isCodeOf tells whether a variable carries another one, without the code that made it.
func isCodeOf(kv string) func(string) bool {
	return func(coded string) bool {
		_, text, _ := strings.Cut(coded, "=")
		var bytes []byte
		for _, r := range text {
			bytes = append(bytes, byte(r))
		}
		return strings.HasPrefix(coded, bytesPrefix) && utf8.ValidString(coded) && string(bytes) == kv
	}
}

func TestExecArgsOfOthers(t *testing.T) {
	for _, args := range [][]string{{"sh"}, {"/dev/.berth-init", "--", "sh", "-c", "x"}, {"sh", "-e", "x"}, {"/dev/.berth-init", "--"}} {
		spec := &specs.Spec{Process: &specs.Process{Args: args}}
		if got := ExecArgs(spec, []string{"ls"}); !slices.Equal(got, []string{"ls"}) {
			t.Errorf("in %q an exec's command is %q", args, got)
		}
	}
}
