package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/signal"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"berth/cmd/berth/printable"
	"berth/cri/operator"
	"berth/server/config"
)

// version is set by the linker.
var version = "dev"

// errUsage is a wrong command line; its text says what would be right.
var errUsage = errors.New("usage")

// command is one subcommand, found by the words of its name.
type command struct {
	name string
	args string
	help string
	run  func(ctx context.Context, env environment, args []string) error
}

// environment is what every subcommand may use.
type environment struct {
	cfg      config.Config
	file     string // of the configuration
	read     error  // why it can't be read, for check
	client   *operator.Client
	out      io.Writer
	progress *progress // on standard error
}

var commands = []command{
	{"version", "", "print the versions of this program and of the daemon", showVersion},
	{"explain", "[--json] POD|CONTAINER", "tell layer by layer how it is, and what most likely made it fail", explainOne},
	{"audit", "[--json]", "tell what weakens the isolation of each running container", auditAll},
	{"check", "", "tell whether this machine can run pods, and what to change", checkHost},
	{"check --store", "[--repair]", "the same as image check", checkImages},
	{"check --leaks", "[--repair]", "list what belongs to no pod and no image; --repair removes it while berthd is stopped", checkLeaks},
	{"wipe", "[--yes] [--images]", "of a broken node, while berthd is stopped: list and remove all pods, and with --images all images", wipeNode},
	{"pods remove", "", "stop and remove every pod sandbox, as before this runtime goes", removePods},
	{"image list", "", "list images", listImages},
	{"image pull", "REF", "pull an image without credentials, showing progress", pullImage},
	{"image load", "FILE", "load a docker or OCI archive; - is standard input", loadImages},
	{"image export", "FILE REF...", "write images to an OCI archive; - is standard output", exportImages},
	{"image check", "[--repair]", "verify every image and layer; --repair drops what is broken", checkImages},
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, unix.SIGTERM)
	defer stop()
	err := run(ctx, os.Args[1:])
	switch {
	case err == nil:
	case errors.Is(err, errUsage):
		fmt.Fprintf(os.Stderr, "berth: %s\n\n%s", printable.Text(err.Error()), usage())
		os.Exit(2)
	default:
		tell(os.Stderr, err)
		os.Exit(1)
	}
}

// tell prints an error, in which a registry or an archive may have its say.
func tell(w io.Writer, err error) {
	fmt.Fprintln(w, "berth:", printable.Text(plain(err))) //nolint:errcheck // there is no other place to say so
}

// plain drops what gRPC puts before the message of an error.
func plain(err error) string {
	if _, message, ok := strings.Cut(err.Error(), " desc = "); ok {
		return message
	}
	return err.Error()
}

func usage() string {
	var b strings.Builder
	b.WriteString("berth [--config FILE] [--address unix:///PATH] [--root DIR] [--state DIR] COMMAND\n\n")
	for _, c := range commands {
		fmt.Fprintf(&b, "  %-30s %s\n", c.name+" "+c.args, c.help)
	}
	return b.String()
}

func run(ctx context.Context, args []string) error {
	fs := flag.NewFlagSet("berth", flag.ContinueOnError)
	fs.SetOutput(io.Discard)
	file := fs.String("config", config.DefaultFile, "")
	address := fs.String("address", "", "")
	root, state := fs.String("root", "", ""), fs.String("state", "", "")
	err := fs.Parse(args)
	if errors.Is(err, flag.ErrHelp) || fs.Arg(0) == "help" {
		fmt.Print(usage())
		return nil
	}
	if err != nil {
		return fmt.Errorf("%w: %w", errUsage, err)
	}
	cmd, rest, err := find(fs.Args())
	if err != nil {
		return err
	}
	cfg, read := config.Load(*file)
	if read != nil && cmd.name != "check" { // which tells of it with all else
		return read
	}
	cfg.Listen, cfg.Root, cfg.State = cmp.Or(*address, cfg.Listen), cmp.Or(*root, cfg.Root), cmp.Or(*state, cfg.State)
	client, err := operator.Dial(cfg.Listen)
	if err != nil {
		return err
	}
	defer client.Close() //nolint:errcheck // nothing was promised over it any more
	return cmd.run(ctx, environment{cfg: cfg, file: *file, read: read, client: client, out: os.Stdout, progress: newProgress(os.Stderr)}, rest)
}

// find is the command whose words args start with, and the rest of args. Of check and
// check --store it is the longer.
func find(args []string) (command, []string, error) {
	for _, c := range slices.Backward(commands) {
		words := strings.Fields(c.name)
		if len(args) >= len(words) && strings.Join(args[:len(words)], " ") == c.name {
			return c, args[len(words):], nil
		}
	}
	if len(args) == 0 {
		return command{}, nil, fmt.Errorf("%w: a command is missing", errUsage)
	}
	return command{}, nil, fmt.Errorf("%w: no command %q", errUsage, strings.Join(args, " "))
}
