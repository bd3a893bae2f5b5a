package main

import (
	"bytes"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"

	"berth/server/config"
)

func main() {
	if len(os.Args) != 3 {
		fmt.Fprintln(os.Stderr, "usage: manual BIN-DIRECTORY OUT-DIRECTORY")
		os.Exit(2)
	}
	if err := write(os.Args[1], os.Args[2]); err != nil {
		fmt.Fprintln(os.Stderr, "manual:", err)
		os.Exit(1)
	}
}

func write(bin, out string) error {
	commands, err := berthCommands(filepath.Join(bin, "berth"))
	if err != nil {
		return err
	}
	if err := os.MkdirAll(out, 0o755); err != nil {
		return err
	}
	for name, text := range map[string]string{
		"berthd.8": daemonPage(), "berth.8": toolPage(commands), "berth-config.5": configPage(),
		"berth.bash": toolCompletion(commands), "berthd.bash": daemonCompletion(),
	} {
		if err := os.WriteFile(filepath.Join(out, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	return nil
}

// command is one of berth's, as its help shows it.
type command struct{ usage, help string }

// berthCommands reads them from the program itself.
func berthCommands(program string) (out []command, err error) {
	text, err := exec.Command(program, "help").Output() //nolint:noctx // it ends at once
	if err != nil {
		return nil, fmt.Errorf("%s help: %w", program, err)
	}
	for line := range strings.Lines(string(text)) {
		// The usage of a command has a column of its own, 30 wide.
		if m := regexp.MustCompile(`^  (\S.{29}) (\S.*)$`).FindStringSubmatch(strings.TrimRight(line, "\n")); m != nil {
			out = append(out, command{strings.TrimSpace(m[1]), m[2]})
		}
	}
	if len(out) == 0 {
		return nil, fmt.Errorf("%s help lists no command", program)
	}
	return out, nil
}

// roff escapes text for a man page.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s
	}
	return s
}

func head(name, section, what string) string {
	return fmt.Sprintf(".TH %s %s\n.SH NAME\n%s \\- %s\n", strings.ToUpper(name), section, name, roff(what))
}

const files = `.SH FILES
.TP
/etc/berth/config.toml, /etc/berth/config.d/*.toml
configuration, see berth\-config(5)
.TP
/etc/berth/certs.d/HOST/hosts.toml
mirrors, certificates and credentials of registries
.TP
/var/lib/berth, /run/berth
state that survives a reboot, and that does not
`

func daemonPage() string {
	var b strings.Builder
	b.WriteString(head("berthd", "8", "a Kubernetes container runtime (CRI)"))
	b.WriteString(".SH SYNOPSIS\n.B berthd\n[\\fB\\-\\-KEY\\fR=\\fIVALUE\\fR ...]\n.SH DESCRIPTION\nServes the CRI to the kubelet. Containers live on when it ends. SIGTERM drains it, SIGHUP reloads its configuration, SIGUSR1 logs the stacks of all goroutines.\n.SH OPTIONS\n")
	b.WriteString(".TP\n.B \\-\\-config FILE\nthe configuration file\n.TP\n.B \\-\\-print\\-config\nprint the configuration in effect and exit\n.TP\n.B \\-\\-version\nprint the version and exit\n")
	eachFlag(func(f *flag.Flag) { fmt.Fprintf(&b, ".TP\n.B \\-\\-%s\n%s\n", roff(f.Name), roff(f.Usage)) })
	b.WriteString(files + ".SH SEE ALSO\nberth(8), berth\\-config(5)\n")
	return b.String()
}

func toolPage(commands []command) string {
	var b strings.Builder
	b.WriteString(head("berth", "8", "look into pods, containers and images of berthd"))
	b.WriteString(".SH SYNOPSIS\n.B berth\n[\\fB\\-\\-config\\fR FILE] [\\fB\\-\\-address\\fR unix:///PATH] [\\fB\\-\\-root\\fR DIR] [\\fB\\-\\-state\\fR DIR] COMMAND\n.SH COMMANDS\n")
	for _, c := range commands {
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(c.usage), roff(c.help))
	}
	b.WriteString(files + ".SH SEE ALSO\nberthd(8), berth\\-config(5)\n")
	return b.String()
}

func configPage() string {
	var text bytes.Buffer
	_ = config.Default().Print(&text) // a buffer takes everything
	var b strings.Builder
	b.WriteString(head("berth-config", "5", "configuration of berthd"))
	b.WriteString(".SH DESCRIPTION\nTOML. Files in /etc/berth/config.d override /etc/berth/config.toml in the order of their names; flags override both. The values here are the defaults.\n.SH KEYS\n")
	for block := range strings.SplitSeq(strings.TrimSpace(text.String()), "\n\n") {
		help, setting, ok := strings.Cut(block, "\n")
		if !ok {
			help, setting = block, strings.TrimPrefix(block, "# ")
		}
		fmt.Fprintf(&b, ".TP\n.B %s\n%s\n", roff(strings.ReplaceAll(setting, "\n", " ")), roff(strings.TrimPrefix(help, "# ")))
	}
	b.WriteString(files + ".SH SEE ALSO\nberthd(8), berth(8)\n")
	return b.String()
}

// eachFlag visits the flags that stand for keys.
func eachFlag(visit func(*flag.Flag)) {
	fs := flag.NewFlagSet("berthd", flag.ContinueOnError)
	config.Flags(fs)
	fs.VisitAll(visit)
}

func daemonCompletion() string {
	names := []string{"--config", "--print-config", "--version", "--help"}
	eachFlag(func(f *flag.Flag) { names = append(names, "--"+f.Name) })
	return "complete -o default -W '" + strings.Join(names, " ") + "' berthd\n"
}

func toolCompletion(commands []command) string {
	next := map[string][]string{}
	var order []string
	add := func(after, word string) {
		if _, ok := next[after]; !ok {
			order = append(order, after)
		}
		if !strings.Contains(" "+strings.Join(next[after], " ")+" ", " "+word+" ") {
			next[after] = append(next[after], word)
		}
	}
	add("", "--config")
	add("", "--address")
	add("", "--root")
	add("", "--state")
	for _, c := range commands {
		after := ""
		for word := range strings.FieldsSeq(c.usage) {
			word = strings.Trim(word, "[]")
			if !regexp.MustCompile(`^(--)?[a-z][a-z-]*$`).MatchString(word) {
				break
			}
			add(after, word)
			if !strings.HasPrefix(word, "--") {
				after = strings.TrimSpace(after + " " + word)
			}
		}
	}
	var b strings.Builder
	b.WriteString("_berth() {\n  local words=() w\n  for w in \"${COMP_WORDS[@]:1:COMP_CWORD-1}\"; do [[ $w == -* ]] || words+=(\"$w\"); done\n  case \"${words[*]}\" in\n")
	for _, after := range order {
		fmt.Fprintf(&b, "  '%s') COMPREPLY=($(compgen -W '%s' -- \"${COMP_WORDS[COMP_CWORD]}\")) ;;\n", after, strings.Join(next[after], " "))
	}
	b.WriteString("  esac\n}\ncomplete -o default -F _berth berth\n")
	return b.String()
}
