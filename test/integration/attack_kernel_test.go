package integration

import (
	"fmt"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// System calls by which faults of the kernel were reached, or the host itself:
// the default seccomp filter or a missing capability must deny each. A name is
// that of an attempt of the probe, followed by what it served for.
func TestAttackSystemCalls(t *testing.T) {
	tenant, mighty := tenantAndMighty(t)
	calls := map[string]string{
		"CVE-2015-1328_overlay_mounts_in_a_user_namespace": "unshare-user",
		"CVE-2016-0728_keyring_reference_leak":             "keyctl",
		"CVE-2016-8655_packet_socket_from_own_network":     "unshare-net",
		"CVE-2017-16995_bpf_verifier":                      "bpf",
		"CVE-2022-0185_fsconfig_overflow":                  "fsconfig",
		"CVE-2022-0492_cgroup_namespace_for_release_agent": "unshare-cgroup",
		"CVE-2023-2598_io_uring":                           "io_uring_setup",
		"CVE-2024-1086_user_namespace_by_clone":            "clone-user",
		"CVE-2020-8835_bpf_by_perf_event":                  "perf_event_open",
		"CVE-2021-22600_userfaultfd_to_win_races":          "userfaultfd",
		"shocker_open_by_handle_at":                        "open_by_handle_at",
		"new_user_namespace_by_clone3":                     "clone3",
		"new_mount_namespace":                              "unshare-mount",
		"join_a_namespace":                                 "setns",
		"mount":                                            "mount",
		"unmount":                                          "umount",
		"mount_by_fsopen":                                  "fsopen",
		"mount_by_fsmount":                                 "fsmount",
		"mount_by_move_mount":                              "move_mount",
		"clone_a_mount_by_open_tree":                       "open_tree",
		"make_a_mount_writable":                            "mount_setattr",
		"pivot_root":                                       "pivot_root",
		"load_a_module":                                    "init_module",
		"load_a_module_from_a_file":                        "finit_module",
		"unload_a_module":                                  "delete_module",
		"kexec_another_kernel":                             "kexec_load",
		"reboot":                                           "reboot",
		"set_the_clock":                                    "settimeofday",
		"swap_to_a_file":                                   "swapon",
		"stop_swapping":                                    "swapoff",
		"add_a_key":                                        "add_key",
		"request_a_key_by_a_helper_of_the_host":            "request_key",
		"read_the_kernel's_log":                            "syslog",
		"process_accounting":                               "acct",
		"watch_the_host's_files_by_fanotify":               "fanotify_init",
		"disk_quotas":                                      "quotactl",
		"hang_up_the_terminal":                             "vhangup",
		"rename_the_host's_domain":                         "setdomainname",
		"executable_stack_by_personality":                  "personality",
		"socket_to_the_hypervisor_AF_VSOCK":                "af_vsock",
		"crypto_of_the_kernel_AF_ALG":                      "af_alg",
	}
	said := func(c *ctr) map[string]string {
		out := map[string]string{}
		names := slices.Sorted(maps.Values(calls))
		for line := range strings.Lines(c.Sh(probePath + " try " + strings.Join(names, " "))) {
			name, answer, _ := strings.Cut(strings.TrimSpace(line), " ")
			out[name] = answer
		}
		return out
	}
	guarded, free := said(tenant), said(mighty)
	for _, name := range slices.Sorted(maps.Keys(calls)) {
		t.Run(name, func(t *testing.T) {
			call, want := calls[name], "EPERM"
			if call == "clone3" {
				want = "ENOSYS" // so that libc falls back to clone, whose flags a filter can see
			}
			if got := guarded[call]; got != want {
				t.Errorf("%s gives %q, want %s", call, got, want)
			}
			if got := free[call]; got == "" || got == "EPERM" {
				t.Errorf("without guards %s gives %q: the attempt shows nothing", call, got)
			}
		})
	}
}

// Capabilities that a tenant dropped are gone for good: nothing that they
// allowed is possible, whatever file or call they are looked for in.
func TestAttackDroppedCapabilities(t *testing.T) {
	p := shared.pod(t, privilegedPod)
	mighty := p.idle("mighty", privileged, withProbe(t))
	bare := p.idle("bare", withProbe(t), guarded(func(sc *runtimeapi.LinuxContainerSecurityContext) {
		sc.Capabilities = &runtimeapi.Capability{DropCapabilities: []string{"ALL"}}
	}))
	user := p.idle("user", withProbe(t), capabilities(1000, &runtimeapi.Capability{AddCapabilities: []string{"CHOWN"}}))
	const attempt = probePath + " try %s | tee /dev/stderr | grep -q allowed"
	try(t, bare, mighty, []script{
		{"CVE-2020-14386_packet_socket", fmt.Sprintf(attempt, "packet-socket"), "EPERM", same},
		{"raw_IP_socket", fmt.Sprintf(attempt, "raw-socket"), "EPERM", same},
		{"make_a_disk's_node", fmt.Sprintf(attempt, "mknod-disk"), "EPERM", same + "; rm /tmp/probe-disk"},
		{"chroot", fmt.Sprintf(attempt, "chroot"), "EPERM", same},
		{"give_a_file_away", "touch /tmp/mine && chown 1000 /tmp/mine", denied, same},
		{"CVE-2024-1086_nf_tables_message", probePath + " firewall", denied, probePath + " firewall 2>&1 | grep -v 'not permitted'"},
	})
	t.Run("CVE-2022-24769_inheritable_capabilities", func(t *testing.T) {
		for _, c := range []*ctr{bare, user} {
			if got := capMask(t, c.hostPID(), "CapInh"); got != 0 && c == bare {
				t.Errorf("the bare one may inherit %x", got)
			}
			want := strings.TrimSpace(c.in(t).Sh("grep CapInh /proc/self/status"))
			if got := "CapInh:\t" + statusField(t, c.hostPID(), "CapInh"); got != want {
				t.Errorf("an exec has %s, the container %s", want, got)
			}
		}
		plain := p.in(t).idle("plain", asTenant)
		if got := capMask(t, plain.hostPID(), "CapInh"); got != 0 {
			t.Errorf("a container of defaults may inherit %x", got)
		}
		if got := plain.in(t).Sh("grep CapInh /proc/self/status"); strings.Trim(got, "CapInh:\t0\n") != "" {
			t.Errorf("an exec has %s", got)
		}
	})
	t.Run("CVE-2016-8867_ambient_capabilities_of_another_user", func(t *testing.T) {
		plain := p.in(t).idle("other-user", capabilities(1000, nil))
		for _, set := range []string{"CapAmb", "CapEff", "CapPrm"} {
			if got := capMask(t, plain.hostPID(), set); got != 0 {
				t.Errorf("%s of a user other than root is %x", set, got)
			}
			if got := plain.Sh("grep " + set + " /proc/self/status"); strings.TrimSpace(strings.TrimPrefix(got, set+":")) != strings.Repeat("0", 16) {
				t.Errorf("an exec has %s", got)
			}
		}
	})
}

// Files of /proc and /sys by which a container reads or commands the host.
func TestAttackProcAndSys(t *testing.T) {
	for _, f := range []string{"core_pattern", "modprobe", "hostname", "randomize_va_space"} {
		unchanged(t, "/proc/sys/kernel/"+f)
	}
	tenant, mighty := tenantAndMighty(t)
	const rewrite = "cp %[1]s /tmp/value && cat /tmp/value > %[1]s" // what is there, so that it changes nothing
	var scripts []script
	for _, file := range []string{"sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/vm/panic_on_oom", "sys/fs/binfmt_misc/register"} {
		file = "/proc/" + file
		s := script{"write_" + file, fmt.Sprintf(rewrite, file), readOnly + "|" + denied, same}
		if _, err := os.Stat(file); err != nil {
			s.says, s.control = noFile, "" // this kernel has none
		}
		if strings.HasSuffix(file, "register") {
			s = script{"write_" + file, "echo x > " + file, readOnly + "|" + noFile + "|nonexistent|" + denied, ""}
		}
		scripts = append(scripts, s)
	}
	for _, file := range []string{"acpi", "asound", "interrupts", "kcore", "keys", "latency_stats", "timer_list", "timer_stats", "sched_debug", "scsi"} {
		file = "/proc/" + file
		s := script{"read_" + file, "[ -e %[1]s ] || { echo no such file or directory; exit 1; }; " +
			"if [ -d %[1]s ]; then [ -n \"$(ls %[1]s)\" ]; else [ -n \"$(head -c 1 %[1]s)\" ]; fi || { echo it is empty; exit 1; }", "it is empty|" + noFile, ""}
		s.run = strings.ReplaceAll(s.run, "%[1]s", file)
		if st, err := os.Stat(file); err == nil && (!st.IsDir() || full(file)) {
			s.says, s.control = "it is empty", same
		}
		scripts = append(scripts, s)
	}
	scripts = append(scripts,
		script{"write_/proc/sysrq-trigger", "echo h > /proc/sysrq-trigger", readOnly + "|" + noFile + "|nonexistent|" + denied, ""},
		script{"write_/proc/irq", "for f in /proc/irq/default_smp_affinity; do cp $f /tmp/value && cat /tmp/value > $f; done", readOnly + "|" + noFile + "|" + denied, ""},
		script{"write_/proc/bus_and_/proc/fs", "touch /proc/bus/x 2>/dev/null || mkdir /proc/fs/x", readOnly + "|" + noFile + "|" + denied, ""},
		script{"write_/sys", "f=/sys/kernel/profiling; [ -e $f ] || f=/sys/kernel/mm/transparent_hugepage/enabled; echo x > $f", readOnly + "|" + noFile + "|nonexistent|" + denied, ""},
		script{"write_/sys/kernel/uevent_helper", "echo /tmp/helper > /sys/kernel/uevent_helper", readOnly + "|" + noFile + "|nonexistent|" + denied, ""},
		script{"read_/sys/firmware", "[ -n \"$(ls /sys/firmware)\" ] || { echo it is empty; exit 1; }", "it is empty|" + noFile, ""},
		script{"read_the_power_meters_of_/sys/devices/virtual/powercap", "[ -n \"$(ls /sys/devices/virtual/powercap)\" ] || { echo it is empty; exit 1; }", "it is empty|" + noFile, ""},
		script{"read_/sys/kernel/security", "[ -n \"$(ls /sys/kernel/security /sys/kernel/debug /sys/kernel/tracing 2>/dev/null | grep -v :)\" ] || { echo it is empty; exit 1; }", "it is empty", ""},
		script{"remount_/proc_writable", "mount -o remount,rw /proc/sys", denied, ""},
		script{"remount_/sys_writable", "mount -o remount,rw /sys", denied, ""},
		script{"mount_a_new_/proc", "mkdir -p /tmp/p && mount -t proc proc /tmp/p", denied, same + " && umount /tmp/p"},
		script{"take_a_mask_away", "umount /proc/keys /proc/kcore /proc/timer_list", denied + "|must be superuser", ""},
		script{"move_a_mask_away", "mkdir -p /tmp/m && mount --move /sys/firmware /tmp/m", denied, ""},
		script{"reach_masked_files_through_a_task's_/proc", "head -c 1 /proc/self/root/proc/keys | grep . || { echo it is empty; exit 1; }", "it is empty", ""},
		script{"raise_a_limit_of_its_cgroup", "for f in $(find /sys/fs/cgroup -name pids.max -o -name memory.max -o -name memory.limit_in_bytes); do v=$(cat $f); echo $v > $f || exit 1; done; " +
			"[ -n \"$f\" ] || { echo no such file or directory; exit 1; }", readOnly + "|" + denied + "|" + noFile, ""},
		script{"CVE-2022-0492_release_agent_of_cgroup_v1", "mkdir -p /tmp/cg && mount -t cgroup -o memory cgroup /tmp/cg && echo /tmp/x > /tmp/cg/release_agent", denied, ""},
		script{"write_a_release_agent_that_is_there", "for f in $(find /sys/fs/cgroup -name release_agent); do echo /tmp/x > $f && exit 0; done; echo no such file or directory; exit 1", readOnly + "|" + noFile + "|" + denied, ""},
	)
	try(t, tenant, mighty, scripts)
}

// full tells whether a directory has entries.
func full(dir string) bool {
	entries, err := os.ReadDir(dir)
	return err == nil && len(entries) > 0
}

// Devices of the host: those that a container makes the nodes of are not its own.
func TestAttackDevices(t *testing.T) {
	tenant, mighty := tenantAndMighty(t)
	open := func(kind, number string) string {
		return "rm -f /tmp/node; mknod /tmp/node " + kind + " " + number + " && exec 3</tmp/node"
	}
	scripts := []script{
		{"read_the_memory_/dev/mem", open("c", "1 1"), denied, ""},
		{"read_the_ports_/dev/port", open("c", "1 4"), denied, ""},
		{"read_the_kernel's_log_/dev/kmsg", open("c", "1 11"), denied, same},
		{"open_a_loop_device", open("b", "7 0"), denied, ""},
		{"control_loop_devices", open("c", "10 237"), denied, ""},
		{"load_by_/dev/fuse", open("c", "10 229"), denied, ""},
		{"run_machines_by_/dev/kvm", open("c", "10 232"), denied, ""},
		{"write_the_first_SCSI_disk", "rm -f /tmp/node; mknod /tmp/node b 8 0 && exec 3<>/tmp/node", denied, ""},
		{"write_the_host's_console", "rm -f /tmp/node; mknod /tmp/node c 5 1 && exec 3<>/tmp/node", denied, ""},
	}
	for number, disk := range disks(t) {
		scripts = append(scripts, script{"read_the_host's_disk_" + disk, open("b", number), denied, same})
		break
	}
	scripts = append(scripts, script{"allow_itself_every_device", "for f in $(find /sys/fs/cgroup -name devices.allow); do echo a > $f && exit 0; done; echo no such file or directory; exit 1", readOnly + "|" + noFile + "|" + denied, ""})
	try(t, tenant, mighty, scripts)
}

// disks are the block devices of the host that can be opened, by "major minor".
func disks(t *testing.T) map[string]string {
	t.Helper()
	out := map[string]string{}
	entries, _ := os.ReadDir("/sys/block")
	for _, e := range entries {
		number, err := os.ReadFile("/sys/block/" + e.Name() + "/dev")
		if err != nil || strings.HasPrefix(e.Name(), "loop") {
			continue
		}
		f, err := os.Open("/dev/" + e.Name())
		if err != nil {
			continue
		}
		f.Close()
		out[strings.TrimSpace(strings.Replace(string(number), ":", " ", 1))] = e.Name()
	}
	return out
}
