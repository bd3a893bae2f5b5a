//go:build ignore

/*
 * init: the first process of a container whose pod asks for one. Static, without
 * libc, a few KiB:
 *
 *   /dev/.berth-init -- COMMAND [ARGUMENT…]
 *
 * It starts the command, hands every signal on to it, reaps what the container
 * orphans, and ends with the command's code, or 128 and the signal that ended it.
 * As in pause the signals stay blocked and are taken with rt_sigtimedwait: without
 * handlers none is lost between two looks, and PID 1 gets also those whose default
 * action the kernel keeps from it.
 *
 *   /dev/.berth-init -e COMMAND [ARGUMENT...]
 *
 * becomes the command itself, with variables that are not UTF-8: on their way here
 * they were BERTH_BYTES_n=NAME=VALUE, each byte of NAME=VALUE as the code point of
 * its number, in UTF-8; see oci/spec_env.go.
 */
#include <linux/fcntl.h>

#include "../shim/pause/start.h"

enum { SIG_CHLD = 17, SIG_TTIN = 21, SIG_TTOU = 22, SET_MASK = 2 };
enum { NO_HANG = 1, ERR_NOENT = 2, ERR_INTR = 4, ERR_ACCES = 13, ERR_NOTDIR = 20 };
enum { NOT_FOUND = 127, NOT_EXECUTABLE = 126 }; /* as shells have it, POSIX 2.8.2 */
enum { TIOCSPGRP = 0x5410 };

static void say(const char *text) { sys(__NR_write, 2, text, length(text), 0); }

static int same(const char *a, const char *b)
{
	while (*a && *a == *b)
		a++, b++;
	return *a == *b;
}

static const char *path_of(char **env)
{
	static const char name[] = "PATH=";

	for (; *env; env++) {
		const char *e = *env, *n = name;

		while (*n && *e == *n)
			e++, n++;
		if (!*n)
			return e;
	}
	return "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
}

/* execute tries the command in each directory of PATH; it returns the reason why
   there is none: that of a file that is there but not executable, if any. */
static long execute(char **argv, char **env)
{
	static char file[4096];
	const char *dir;
	long err = -ERR_NOENT;

	for (const char *c = argv[0]; *c; c++)
		if (*c == '/')
			return sys(__NR_execve, argv[0], argv, env, 0);
	for (dir = path_of(env);; dir++) {
		size_t end = 0, i = 0;
		long failed;

		for (; *dir && *dir != ':'; dir++)
			if (end < sizeof file)
				file[end++] = *dir;
		if (end + length(argv[0]) + 2 < sizeof file) {
			if (end)
				file[end++] = '/';
			do
				file[end++] = argv[0][i];
			while (argv[0][i++]);
			failed = sys(__NR_execve, file, argv, env, 0);
			if (failed != -ERR_NOENT && failed != -ERR_NOTDIR)
				err = failed;
		}
		if (!*dir)
			return err;
	}
}

/* coded is what follows BERTH_BYTES_n= in a variable of that name, 0 in others. */
static char *coded(char *var)
{
	static const char name[] = "BERTH_BYTES_";

	for (const char *n = name; *n; n++, var++)
		if (*var != *n)
			return 0;
	while (*var >= '0' && *var <= '9')
		var++;
	return *var == '=' ? var + 1 : 0;
}

/* decode gives variables their bytes, in place, as they only get shorter. */
static void decode(char **env)
{
	for (; *env; env++) {
		char *from = coded(*env), *to = from;

		if (!from)
			continue;
		for (*env = to; *from; from++) {
			unsigned char c = (unsigned char)*from;

			if ((c & 0xfe) == 0xc2 && from[1])
				c = (unsigned char)((c & 3) << 6 | (*++from & 0x3f));
			*to++ = (char)c;
		}
		*to = 0;
	}
}

/* run becomes the command, or says why it can't. */
static void run(char **argv, char **env)
{
	long err = execute(argv, env);

	say("berth-init: ");
	say(argv[0]);
	say(err == -ERR_NOENT || err == -ERR_NOTDIR ? ": no such file or directory\n" :
		err == -ERR_ACCES ? ": permission denied\n" : ": can't be executed\n");
	leave(err == -ERR_NOENT || err == -ERR_NOTDIR ? NOT_FOUND : NOT_EXECUTABLE);
}

/* become_command is the child's. A group of its own in the foreground lets the
   terminal's signals reach the command and not init, which would send them twice. */
static void become_command(char **argv, char **env, const unsigned long *mask)
{
	int group = (int)sys(__NR_getpid, 0, 0, 0, 0);

	sys(__NR_setpgid, 0, 0, 0, 0);
	sys(__NR_ioctl, 0, TIOCSPGRP, &group, 0); /* fails where there is no terminal */
	sys(__NR_rt_sigprocmask, SET_MASK, mask, 0, sizeof *mask);
	run(argv, env);
}

static long start(char **argv, char **env, const unsigned long *mask)
{
	long pid = sys6(__NR_clone, SIG_CHLD, 0, 0, 0, 0, 0); /* fork(2) */

	if (pid == 0)
		become_command(argv, env, mask);
	if (pid < 0) {
		say("berth-init: can't start a process\n");
		leave(NOT_EXECUTABLE);
	}
	return pid;
}

/* reap takes what has ended and ends itself with the command. */
static void reap(long command)
{
	int status;
	long pid;

	while ((pid = sys(__NR_wait4, -1, &status, NO_HANG, 0)) > 0)
		if (pid == command)
			leave(status & 0x7f ? 128 + (status & 0x7f) : status >> 8 & 0xff);
}

__attribute__((used)) void begin(long *stack)
{
	static const unsigned long all = ~0UL;
	unsigned long before = 0;
	char **argv = (char **)(stack + 1), **env = argv + *stack + 1;
	long command;

	if (*stack >= 3 && same(argv[1], "-e")) {
		decode(env);
		run(argv + 2, env);
	}
	if (*stack < 3 || !same(argv[1], "--")) {
		say("usage: berth-init --|-e COMMAND [ARGUMENT...]\n");
		leave(2);
	}
	sys(__NR_rt_sigprocmask, SET_MASK, &all, &before, sizeof all);
	command = start(argv + 2, env, &before);
	for (;;) {
		long sig = sys(__NR_rt_sigtimedwait, &all, 0, 0, sizeof all);

		if (sig == SIG_CHLD)
			reap(command);
		else if (sig > 0 && sig != SIG_TTIN && sig != SIG_TTOU)
			sys(__NR_kill, command, sig, 0, 0);
		else if (sig < 0 && sig != -ERR_INTR)
			leave(NOT_EXECUTABLE);
	}
}
