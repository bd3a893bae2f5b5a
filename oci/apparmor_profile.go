package oci

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// profileDir holds the files that distributions give to profiles for inclusion.
const profileDir = "/etc/apparmor.d"

// parserTimeout is more than apparmor_parser takes for one small profile.
const parserTimeout = 30 * time.Second

// ourProfiles are names under which a distribution confines berth's own programs. The
// shim is the one that signals containers, and may be confined apart from the daemon.
var ourProfiles = []string{"berthd", "berth-shim"}

// profileRules confine a container: all files, but not the kernel's settings. Writing
// below /proc is for processes' own directories and kernel/shm*, below /sys for
// cgroups. What the kernel's version or another host's software adds there is not
// writable until a rule here says so.
var profileRules = []string{
	"network,", "capability,", "file,", "umount,",
	"deny mount,",
	"deny @{PROC}/* w,",
	"deny @{PROC}/[^1-9s]*/** w,",
	"deny @{PROC}/s[^y]*/** w,",
	"deny @{PROC}/sy[^s]*/** w,",
	"deny @{PROC}/sys[^/]*/** w,",
	"deny @{PROC}/sys/[^k]** w,",
	"deny @{PROC}/sys/kernel/[^s]** w,",
	"deny @{PROC}/sys/kernel/s[^h]** w,",
	"deny @{PROC}/sys/kernel/sh[^m]** w,",
	"deny @{PROC}/{kcore,sysrq-trigger} rwklx,",
	"deny /sys/[^f]** wklx,",
	"deny /sys/f[^s]** wklx,",
	"deny /sys/fs/[^c]** wklx,",
	"deny /sys/fs/c[^g]** wklx,",
	"deny /sys/fs/cg[^r]** wklx,",
	"deny /sys/{firmware,kernel/security,devices/virtual/powercap}/** rwklx,",
}

// defaultProfile is the text of the profile RuntimeDefault means, for a daemon that
// AppArmor confines by the profile daemon ("" or "unconfined": by none). Both sides
// of a signal must allow it, so the profile names whoever may send one: processes of
// the host that are not confined, the daemon, its shims, and other processes under
// the same profile. The daemon also looks into containers through /proc, which is a
// ptrace to AppArmor. exists tells of files below [profileDir].
func defaultProfile(daemon string, exists func(string) bool) string {
	var b strings.Builder
	if exists("tunables/global") {
		b.WriteString("#include <tunables/global>\n")
	} else {
		b.WriteString("@{PROC}=/proc/\n")
	}
	fmt.Fprintf(&b, "profile %s flags=(attach_disconnected,mediate_deleted) {\n", quoteAppArmor(defaultAppArmor))
	if exists("abstractions/base") {
		b.WriteString("  #include <abstractions/base>\n")
	}
	for _, rule := range profileRules {
		fmt.Fprintf(&b, "  %s\n", rule)
	}
	b.WriteString("  signal (receive) peer=unconfined,\n")
	ours := slices.Clone(ourProfiles)
	if daemon != "" && daemon != "unconfined" && !slices.Contains(ours, daemon) {
		ours = append(ours, daemon)
	}
	for _, name := range ours {
		fmt.Fprintf(&b, "  signal (receive) peer=%[1]s,\n  ptrace (readby) peer=%[1]s,\n", quoteAppArmor(name))
	}
	fmt.Fprintf(&b, "  signal (send,receive) peer=%[1]s,\n  ptrace (trace,read,tracedby,readby) peer=%[1]s,\n}\n", quoteAppArmor(defaultAppArmor))
	return b.String()
}

// quoteAppArmor writes a name so that nothing in it is a pattern.
func quoteAppArmor(name string) string {
	var b strings.Builder
	for _, r := range name {
		if strings.ContainsRune(`\"*?[]{}^,`, r) {
			b.WriteByte('\\')
		}
		b.WriteRune(r)
	}
	return `"` + b.String() + `"`
}

// ownAppArmorLabel is the profile that confines this process, "" for none. The first
// file is AppArmor's alone; kernels before 5.8 have only the second.
func ownAppArmorLabel() string {
	for _, file := range []string{"/proc/self/attr/apparmor/current", "/proc/self/attr/current"} {
		if text, err := os.ReadFile(file); err == nil {
			return parseAppArmorLabel(string(text))
		}
	}
	return ""
}

// parseAppArmorLabel takes the mode off what the kernel says: NAME (enforce).
func parseAppArmorLabel(text string) string {
	text = strings.TrimRight(text, "\n\x00")
	if i := strings.LastIndex(text, " ("); i > 0 && strings.HasSuffix(text, ")") {
		text = text[:i]
	}
	return text
}

func profileFileExists(name string) bool { return pathExists(filepath.Join(profileDir, name)) }

// parseAppArmor loads a profile in place of one of its name. The error wraps
// [exec.ErrNotFound] without apparmor_parser. Its cache is not used: the disk may be
// read-only.
func parseAppArmor(profile string) error {
	const parser = "apparmor_parser"
	ctx, cancel := context.WithTimeout(context.Background(), parserTimeout)
	defer cancel()
	cmd := exec.CommandContext(ctx, parser, "--skip-cache", "--replace")
	cmd.Stdin = strings.NewReader(profile)
	out, err := cmd.CombinedOutput()
	if errors.Is(err, exec.ErrNotFound) {
		return fmt.Errorf("install the package apparmor, which has %s: %w", parser, err)
	}
	if err != nil {
		return fmt.Errorf("%s: %w: %s", parser, err, clip(strings.TrimSpace(string(out))))
	}
	return nil
}
