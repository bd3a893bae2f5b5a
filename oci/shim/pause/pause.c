//go:build ignore

/*
 * pause: the process that holds a pod's namespaces. Static, without libc, a few
 * KiB. The shim starts it in its new namespaces, with the mounts that stage.go
 * makes: a read-only root that holds nothing but /proc and the empty directory /empty.
 *
 *   fd 0  pipe from the shim: a byte when this process is on record. Its end without one
 *         is the end of a shim that nobody will ever ask for this process
 *   fd 3  pipe to the shim: one byte 0 when all is done; else two little-endian
 *         32-bit words, step and errno; above the lowest byte of the step of a
 *         sysctl is its place in argv. It is closed when the filter is in force.
 *   fd 4  a mount namespace that has an empty read-only root and nothing else
 *   argv  "l" bring loopback up, "hNAME" set the host name,
 *         "sPATH=VALUE" write VALUE into /proc/sys/PATH,
 *         "aPROFILE" change to this AppArmor profile,
 *         "uUID", "gGID" become this user and group, "GGID,GID" with these
 *         supplementary groups, "m" the mount namespace is a copy of its own, to
 *         be emptied, where fd 4 can't be joined: in a user namespace; "xLABEL" be
 *         executed once more, at the end, with this SELinux label
 *   fd 5  the program itself, with "xLABEL"
 *
 * Then it leaves these mounts, gives up everything and reaps children until SIGTERM or
 * SIGINT. SELinux lets a process change its label only when it executes a program, and
 * a label that is good for containers does not allow what was done until then. So the
 * program executes itself, with the argument "w" for "wait".
 *
 * Containers that share its PID namespace see it in their /proc: whatever it held there
 * would be theirs. The signals stay blocked and are taken with rt_sigtimedwait: so no
 * handler is needed, and PID 1 of a namespace, for which unblocked signals of default
 * action are dropped by the kernel, gets them all the same.
 */
#include <linux/capability.h>
#include <linux/fcntl.h>
#include <linux/filter.h>
#include <linux/if.h>
#include <linux/prctl.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>

#include "start.h"

enum { RECORD_FD = 0, STATUS_FD = 3, EMPTY_FD = 4, PROGRAM_FD = 5 };
enum { SIG_INT = 2, SIG_TERM = 15, SIG_CHLD = 17, FAMILY_INET = 2, TYPE_DGRAM = 2 };
enum { NO_HANG = 1, ERR_INTR = 4 };
enum { MOUNT_BIND = 4096, UMOUNT_DETACH = 2, NEW_MOUNTS = 0x00020000, NEW_CGROUP = 0x02000000, MAX_GROUPS = 1024 };
/* Known to steps in pause.go: the order is the wire. */
enum step {
	DONE, ARGUMENT, LOOPBACK, HOSTNAME, SYSCTL, ROOT, CAPABILITIES, PRIVILEGES, SECCOMP, SIGNALS,
	CGROUPS, APPARMOR, IDENTITY, SELINUX,
};

/* What pause becomes, of the arguments. */
static struct {
	const char *profile, *label;
	long profile_fd, label_fd;
	int own_mounts;
	unsigned int uid, gid, groups[MAX_GROUPS];
	size_t group_count;
} self;

/* need ends the process when the system call of this step failed. */
static long need(unsigned int step, long ret)
{
	unsigned int report[2] = { step, (unsigned int)-ret };

	if (ret >= 0)
		return ret;
	sys(__NR_write, STATUS_FD, report, sizeof report, 0);
	leave(1);
	return ret;
}

static void loopback_up(void)
{
	struct ifreq r = { .ifr_name = "lo" };
	long fd = need(LOOPBACK, sys(__NR_socket, FAMILY_INET, TYPE_DGRAM, 0, 0));

	need(LOOPBACK, sys(__NR_ioctl, fd, SIOCGIFFLAGS, &r, 0));
	r.ifr_flags |= IFF_UP;
	need(LOOPBACK, sys(__NR_ioctl, fd, SIOCSIFFLAGS, &r, 0));
	sys(__NR_close, fd, 0, 0, 0);
}

static void sysctl(char *setting, unsigned int place)
{
	unsigned int step = SYSCTL | place << 8;
	char path[512] = "/proc/sys/";
	size_t end = length(path);
	long fd;

	for (; *setting && *setting != '='; setting++) {
		if (end + 1 >= sizeof path)
			need(ARGUMENT, -36 /* ENAMETOOLONG */);
		path[end++] = *setting;
	}
	if (!*setting)
		need(ARGUMENT, -22 /* EINVAL */);
	setting++;
	fd = need(step, sys(__NR_openat, AT_FDCWD, path, O_WRONLY | O_CLOEXEC, 0));
	need(step, sys(__NR_write, fd, setting, length(setting), 0));
	sys(__NR_close, fd, 0, 0, 0);
}

static unsigned int number(char **text)
{
	unsigned int n = 0;

	if (**text < '0' || **text > '9')
		need(ARGUMENT, -22 /* EINVAL */);
	for (; **text >= '0' && **text <= '9'; (*text)++)
		n = n * 10 + (unsigned int)(**text - '0');
	return n;
}

static void read_groups(char *list)
{
	for (;; list++) {
		if (self.group_count == MAX_GROUPS)
			need(ARGUMENT, -7 /* E2BIG */);
		self.groups[self.group_count++] = number(&list);
		if (*list != ',')
			return;
	}
}

/* open_profile opens the file by which the profile is changed later, when /proc
   is gone: a profile may forbid the calls in between. Before Linux 5.8 AppArmor
   has no directory of its own there. */
static void open_profile(const char *profile)
{
	self.profile = profile;
	self.profile_fd = sys(__NR_openat, AT_FDCWD, "/proc/self/attr/apparmor/current", O_WRONLY | O_CLOEXEC, 0);
	if (self.profile_fd < 0)
		self.profile_fd = need(APPARMOR, sys(__NR_openat, AT_FDCWD, "/proc/self/attr/current", O_WRONLY | O_CLOEXEC, 0));
}

static void change_profile(void)
{
	char order[512] = "changeprofile ";
	size_t end = length(order);

	if (!self.profile)
		return;
	if (end + length(self.profile) >= sizeof order)
		need(ARGUMENT, -36 /* ENAMETOOLONG */);
	memcpy(order + end, self.profile, length(self.profile));
	need(APPARMOR, sys(__NR_write, self.profile_fd, order, end + length(self.profile), 0));
	sys(__NR_close, self.profile_fd, 0, 0, 0);
}

/* open_label opens the file that takes the label, when /proc is still there. */
static void open_label(const char *label)
{
	self.label = label;
	self.label_fd = need(SELINUX, sys(__NR_openat, AT_FDCWD, "/proc/self/attr/exec", O_WRONLY | O_CLOEXEC, 0));
}

/* execute_again becomes the program again, with the label. */
static void execute_again(void)
{
	static char *const argv[] = { "pause", "w", 0 };
	static char *const envp[] = { 0 };

	need(SELINUX, sys(__NR_write, self.label_fd, self.label, length(self.label), 0));
	need(SELINUX, sys6(__NR_execveat, PROGRAM_FD, (long)"", (long)argv, (long)envp, AT_EMPTY_PATH, 0));
}

static void prepare(char **argv)
{
	for (unsigned int place = 1; argv[place]; place++) {
		char *rest = argv[place] + 1;

		switch (*argv[place]) {
		case 'l':
			loopback_up();
			break;
		case 'h':
			need(HOSTNAME, sys(__NR_sethostname, rest, length(rest), 0, 0));
			break;
		case 's':
			sysctl(rest, place);
			break;
		case 'm':
			self.own_mounts = 1;
			break;
		case 'a':
			open_profile(rest);
			break;
		case 'x':
			open_label(rest);
			break;
		case 'u':
			self.uid = number(&rest);
			break;
		case 'g':
			self.gid = number(&rest);
			break;
		case 'G':
			read_groups(rest);
			break;
		default:
			need(ARGUMENT, -22 /* EINVAL */);
		}
	}
}

/* empty_mounts makes the empty directory the root of this mount namespace and
   detaches all other mounts. The directory is bound onto itself first: a user
   namespace may not move a mount it inherited. */
static void empty_mounts(void)
{
	need(ROOT, sys6(__NR_mount, (long)"/empty", (long)"/empty", 0, MOUNT_BIND, 0, 0));
	need(ROOT, sys(__NR_chdir, "/empty", 0, 0, 0));
	need(ROOT, sys(__NR_pivot_root, ".", ".", 0, 0));
	/* The old root lies on top of the new one, and "." is the new one. */
	need(ROOT, sys(__NR_umount2, ".", UMOUNT_DETACH, 0, 0));
	need(ROOT, sys(__NR_chdir, "/", 0, 0, 0));
}

/* leave_mounts sees to it that no path, also none with "..", leads from this process
   to a file. The copy of the empty namespace is its own: containers that may mount
   there must not meet those of another pod. */
static void leave_mounts(void)
{
	if (self.own_mounts) {
		empty_mounts();
	} else {
		need(ROOT, sys(__NR_setns, EMPTY_FD, NEW_MOUNTS, 0, 0));
		need(ROOT, sys(__NR_unshare, NEW_MOUNTS, 0, 0, 0));
	}
	sys(__NR_close, EMPTY_FD, 0, 0, 0);
}

/* change_identity comes before the capabilities go, and after all that needs them. */
static void change_identity(void)
{
	need(IDENTITY, sys(__NR_setgroups, self.group_count, self.groups, 0, 0));
	need(IDENTITY, sys(__NR_setresgid, self.gid, self.gid, self.gid, 0));
	need(IDENTITY, sys(__NR_setresuid, self.uid, self.uid, self.uid, 0));
}

static void drop_capability_bounds(void)
{
	long cap;

	for (cap = 0; sys(__NR_prctl, PR_CAPBSET_READ, cap, 0, 0) >= 0; cap++)
		need(CAPABILITIES, sys(__NR_prctl, PR_CAPBSET_DROP, cap, 0, 0));
}

static void drop_privileges(void)
{
	struct __user_cap_header_struct header = { _LINUX_CAPABILITY_VERSION_3, 0 };
	struct __user_cap_data_struct none[2] = { { 0 } };

	drop_capability_bounds();
	change_identity();
	sys(__NR_prctl, PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0);
	need(CAPABILITIES, sys(__NR_capset, &header, none, 0, 0));
	/* Changing to a profile needs no privilege, but is not possible after this. */
	change_profile();
}

static void seal(void)
{
	need(PRIVILEGES, sys(__NR_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0));
	/* Last: each change of identity puts the system's default in force again. */
	need(PRIVILEGES, sys(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0));
	sys(__NR_prctl, PR_SET_NAME, "pause", 0, 0);
}

#define ALLOW(name) \
	BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, __NR_##name, 0, 1), \
	BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)

static void confine(void)
{
	static const struct sock_filter code[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		ALLOW(rt_sigtimedwait),
		ALLOW(wait4),
		ALLOW(close), /* of what is left open, right after this */
		ALLOW(exit_group),
		ALLOW(restart_syscall), /* after SIGSTOP and SIGCONT */
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
	};
	struct sock_fprog program = { sizeof code / sizeof code[0], (struct sock_filter *)code };

	need(SECCOMP, sys(__NR_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program, 0));
}

/* await_record returns when the shim has written down that this process is there. */
static void await_record(void)
{
	char byte;
	long n;

	do
		n = sys(__NR_read, RECORD_FD, &byte, 1, 0);
	while (n == -ERR_INTR); /* SIGSTOP and SIGCONT */
	if (n != 1)
		leave(3);
}

static void reap_for_ever(const unsigned long *signals)
{
	for (;;) {
		long sig = sys(__NR_rt_sigtimedwait, signals, 0, 0, sizeof *signals);

		if (sig == SIG_INT || sig == SIG_TERM)
			leave(0);
		if (sig < 0 && sig != -ERR_INTR)
			leave(2);
		while (sys(__NR_wait4, -1, 0, NO_HANG, 0) > 0)
			;
	}
}

__attribute__((used)) void begin(long *stack)
{
	static const unsigned long signals =
		1UL << (SIG_INT - 1) | 1UL << (SIG_TERM - 1) | 1UL << (SIG_CHLD - 1);
	static const char done = DONE;
	char **argv = (char **)(stack + 1); /* stack: argc, argv[0], … */
	long fd;

	need(SIGNALS, sys(__NR_rt_sigprocmask, 2 /* SIG_SETMASK */, &signals, 0, sizeof signals));
	/* Not dumpable before it has anything to show: see /proc/PID in proc(5). */
	need(PRIVILEGES, sys(__NR_prctl, PR_SET_DUMPABLE, 0, 0, 0));
	if (argv[1] && *argv[1] == 'w') {
		sys(__NR_close, PROGRAM_FD, 0, 0, 0);
		seal();
	} else {
		sys(__NR_close_range, PROGRAM_FD + 1, ~0U, 0, 0);
		need(CGROUPS, sys(__NR_unshare, NEW_CGROUP, 0, 0, 0));
		prepare(argv);
		leave_mounts();
		drop_privileges();
		/* What is sealed can't take a label any more. Without one, whoever is told
		   that pause waits may count on the seal. */
		if (!self.label)
			seal();
		/* Told before the label, with which it may lose the pipe, and before the
		   filter, which does not let it write; what the kernel refuses then is
		   reported after this byte. */
		sys(__NR_write, STATUS_FD, &done, 1, 0);
		await_record();
		if (self.label)
			execute_again();
		sys(__NR_close, PROGRAM_FD, 0, 0, 0);
	}
	confine();
	for (fd = 0; fd <= STATUS_FD; fd++)
		sys(__NR_close, fd, 0, 0, 0);
	reap_for_ever(&signals);
}
