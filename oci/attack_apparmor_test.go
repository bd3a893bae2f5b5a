package oci

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/moby/profiles/apparmor"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

func profileOf(kind runtimeapi.SecurityProfile_ProfileType, ref string) *runtimeapi.SecurityProfile {
	return &runtimeapi.SecurityProfile{ProfileType: kind, LocalhostRef: ref}
}

// A container that should be confined by AppArmor never runs unconfined: neither a
// privileged one with a Localhost profile, nor any on a host whose default profile
// could not be loaded.
func TestAttackUnconfinedByAppArmor(t *testing.T) {
	local, unconfined := profileOf(profileLocalhost, "mine"), profileOf(profileUnconfined, "")
	byDefault := profileOf(profileDefault, "")
	for name, c := range map[string]struct {
		loaded     string // the default profile
		off        bool   // the host has no AppArmor
		privileged bool
		profile    *runtimeapi.SecurityProfile
		want       string
		refused    bool
	}{
		"default":                              {loaded: "d", profile: byDefault, want: "d"},
		"default by silence":                   {loaded: "d", want: "d"},
		"default not loaded":                   {profile: byDefault, refused: true},
		"default by silence not loaded":        {refused: true},
		"unconfined needs no profile":          {profile: unconfined},
		"Localhost needs no default":           {profile: local, want: "mine"},
		"privileged Localhost":                 {loaded: "d", privileged: true, profile: local, want: "mine"},
		"privileged Localhost without":         {privileged: true, off: true, profile: local, refused: true},
		"privileged":                           {loaded: "d", privileged: true},
		"privileged default, not loaded":       {privileged: true, profile: byDefault},
		"no AppArmor, default":                 {off: true, profile: byDefault},
		"no AppArmor, by silence":              {off: true},
		"no AppArmor, Localhost":               {off: true, profile: local, refused: true},
		"privileged unconfined, default there": {loaded: "d", privileged: true, profile: unconfined},
	} {
		in := baseInput()
		if c.privileged {
			in.privileged()
		}
		in.host.AppArmor, in.host.AppArmorDefault = !c.off, c.loaded
		in.security().Apparmor = c.profile
		spec, err := Spec(in.pod, in.ctr, in.img, in.host)
		switch {
		case c.refused:
			if !errors.Is(err, ErrUnsupported) || !strings.Contains(err.Error(), "Unconfined") {
				t.Errorf("%s: %v, want a refusal that says what to ask for", name, err)
			}
		case err != nil:
			t.Errorf("%s: %v", name, err)
		case spec.Process.ApparmorProfile != c.want:
			t.Errorf("%s: profile %q, want %q", name, spec.Process.ApparmorProfile, c.want)
		}
	}
	sc := &runtimeapi.LinuxContainerSecurityContext{Privileged: true, Apparmor: profileOf(profileLocalhost, "no-such-profile")}
	if err := CheckAppArmor(sc, Host{AppArmor: true}); err == nil {
		t.Error("a profile of a privileged container that is not loaded is not missed")
	}
}

// parserInPath makes a script apparmor_parser and the only place programs are found.
func parserInPath(t *testing.T, script string) {
	t.Helper()
	dir := t.TempDir()
	t.Setenv("PATH", dir)
	if script == "" {
		return
	}
	if err := os.WriteFile(filepath.Join(dir, "apparmor_parser"), []byte("#!/bin/sh\n"+script), 0o755); err != nil {
		t.Fatal(err)
	}
}

// A host with AppArmor whose apparmor_parser is missing or fails has no default
// profile, and the error says why. A profile that the kernel has already needs no parser that is not there.
func TestAttackAppArmorParserMissing(t *testing.T) {
	there, err := apparmor.IsLoaded(defaultAppArmor)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		t.Fatal(err)
	}
	for script, want := range map[string]string{
		"": "install the package apparmor", "echo no kernel support >&2; exit 3": "no kernel support",
	} {
		parserInPath(t, script)
		h := Host{AppArmor: true}
		err := LoadAppArmorDefault(&h)
		if there && script == "" {
			if err != nil || h.AppArmorDefault != defaultAppArmor {
				t.Errorf("%q: profile %q, %v; want the one that is loaded", script, h.AppArmorDefault, err)
			}
			continue
		}
		if err == nil || !strings.Contains(err.Error(), want) || h.AppArmorDefault != "" {
			t.Errorf("%q: profile %q, %v", script, h.AppArmorDefault, err)
		}
	}
	got := filepath.Join(t.TempDir(), "profile")
	parserInPath(t, "PATH=/bin:/usr/bin; cat >'"+got+"'; echo \"$@\" >>'"+got+"'")
	h := Host{AppArmor: true}
	if err := LoadAppArmorDefault(&h); err != nil || h.AppArmorDefault != defaultAppArmor {
		t.Fatalf("%q, %v", h.AppArmorDefault, err)
	}
	text, err := os.ReadFile(got)
	if err != nil {
		t.Fatal(err)
	}
	if want := defaultProfile(ownAppArmorLabel(), profileFileExists) + "--skip-cache --replace\n"; string(text) != want {
		t.Errorf("apparmor_parser got\n%s", text)
	}
}

// Whoever ends containers may signal them: processes that are not confined, the
// daemon and its shims when they are, and nobody else.
func TestProfileAdmitsConfinedDaemons(t *testing.T) {
	for label, more := range map[string][]string{
		"":                    nil,
		"unconfined\n":        nil,
		"berthd (enforce)\n":  nil,
		"/opt/b d (complain)": {`"/opt/b d"`},
		"a//&b (enforce)":     {`"a//&b"`},
		"x*{y}\" (enforce)\n": {`"x\*\{y\}\""`},
		"old-kernel-style":    {`"old-kernel-style"`},
	} {
		text := defaultProfile(parseAppArmorLabel(label), func(string) bool { return false })
		var peers []string
		for line := range strings.Lines(text) {
			if peer, ok := strings.CutPrefix(line, "  signal (receive) peer="); ok {
				peers = append(peers, strings.TrimSuffix(peer, ",\n"))
			}
		}
		want := append([]string{"unconfined", `"berthd"`, `"berth-shim"`}, more...)
		if strings.Join(peers, " ") != strings.Join(want, " ") {
			t.Errorf("%q: signals from %q, want %q", label, peers, want)
		}
		for _, peer := range want[1:] {
			if !strings.Contains(text, "ptrace (readby) peer="+peer+",\n") {
				t.Errorf("%q: %s can't look into the container", label, peer)
			}
		}
		compile(t, text)
	}
	compile(t, defaultProfile("", profileFileExists))
}

// compile has the real parser read a profile, without a kernel that has AppArmor.
func compile(t *testing.T, profile string) {
	t.Helper()
	parser, err := exec.LookPath("apparmor_parser")
	if err != nil {
		t.Log("apparmor_parser is not installed, so the profile is not compiled")
		return
	}
	cmd := exec.CommandContext(t.Context(), parser, "--skip-kernel-load", "--skip-cache")
	cmd.Stdin = strings.NewReader(profile)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s\n%s", err, out, profile)
	}
}
