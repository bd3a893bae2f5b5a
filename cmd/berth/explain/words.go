package explain

import (
	"bytes"
	"errors"
	"io"
	"strings"
)

const (
	lastWords = 5        // lines that are shown
	tailBytes = 64 << 10 // of the log that are read for them: some of the longest parts, of 16 KiB
	wordBytes = 200      // of a line that are shown
)

// tail gives the last n lines of a log in the CRI's format, without their heads.
// They are as the workload wrote them, so they are escaped where they are printed.
func tail(path string, n int) ([]string, error) {
	base, name := splitOwn(path)
	f, err := openFile(base, name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	size, err := f.Seek(0, io.SeekEnd)
	if err != nil {
		return nil, err
	}
	buf := make([]byte, min(size, tailBytes))
	if _, err := f.ReadAt(buf, size-int64(len(buf))); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	if int64(len(buf)) < size { // the first line is cut
		_, buf, _ = bytes.Cut(buf, []byte("\n"))
	}
	lines := strings.Split(strings.TrimSuffix(string(buf), "\n"), "\n")
	if len(buf) == 0 {
		return nil, nil
	}
	lines = lines[max(0, len(lines)-n):]
	for i, line := range lines {
		lines[i] = message(line)
	}
	return lines, nil
}

// message is the beginning of a line without its time, stream and tag.
func message(line string) string {
	if parts := strings.SplitN(line, " ", 4); len(parts) == 4 {
		line = parts[3]
	}
	if len(line) > wordBytes {
		line = strings.ToValidUTF8(line[:wordBytes], "") + "…"
	}
	return line
}

// complaints are what programs print when the kernel refuses them something
// (strerror of the C library and of Go), and where the refusal comes from.
var complaints = []struct{ words, layer, seen, try string }{
	{"operation not permitted", "security", "it was refused an operation", "look at the layer security: the seccomp filter, then the capabilities"},
	{"permission denied", "security", "it was refused a file or port", "look at the layer security: the user, then its capabilities and AppArmor"},
	{"bad system call", "security", "seccomp refused a system call", "look at the layer security: the seccomp filter"},
	{"read-only file system", "filesystem", "it wrote where it may not", "mount a volume there, or make the root filesystem writable"},
	{"no space left on device", "filesystem", "a filesystem is full", "look at the free space in the layer filesystem, and at limits of its volumes"},
	{"no such file or directory", "filesystem", "it misses a file", "look at the image and the mounts in the layer filesystem"},
	{"exec format error", "filesystem", "a program is not for this machine", "use an image of this architecture; a script needs its first line"},
	{"resource temporarily unavailable", "cgroup", "it could not make a process or thread", "look at pids in the layer cgroup"},
	{"can't fork", "cgroup", "it could not make a process", "look at pids in the layer cgroup"},
	{"cannot allocate memory", "cgroup", "it was refused memory", "look at memory in the layer cgroup"},
	{"out of memory", "cgroup", "it was refused memory", "look at memory in the layer cgroup"},
	{"address already in use", "network", "a port it wants is taken", "look at the listening ports in the layer network"},
	{"no such host", "network", "a name could not be resolved", "look at the name servers in the layer network"},
	{"bad address", "network", "a name could not be resolved", "look at the name servers in the layer network"},
	{"temporary failure in name resolution", "network", "a name could not be resolved", "look at the name servers in the layer network"},
	{"network is unreachable", "network", "it has no route to a peer", "look at the routes in the layer network"},
	{"connection refused", "network", "a peer does not listen", "see that the peer runs and listens"},
	{"connection timed out", "network", "a peer does not answer", "look at the routes in the layer network, and at network policies"},
}

// hear takes the last complaint of the log as a finding. It weighs more when the
// container has failed: many programs complain and go on.
func (l processLayer) hear(lines []string) {
	strength := hint
	if f := l.ctr.fact; l.ctr.ended() && f.ExitCode != 0 && f.Signal == 0 {
		strength = likely
	}
	for i := len(lines) - 1; i >= 0; i-- {
		lower := strings.ToLower(lines[i])
		for _, c := range complaints {
			if strings.Contains(lower, c.words) {
				l.report.Findings = append(l.report.Findings, Finding{
					Layer: c.layer, Strength: strength, Seen: c.seen + ", it says " + quote(lines[i]), Try: c.try,
				})
				return
			}
		}
	}
}

func quote(s string) string { return "“" + strings.TrimSpace(s) + "”" }
