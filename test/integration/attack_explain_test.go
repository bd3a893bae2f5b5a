package integration

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A container that has the directory of its logs (CVE-2017-1002101 and its kin) puts
// a link to a file of the host, a FIFO and a device in the place of its log: berth
// explain shows nothing of the host, and waits for nothing. Escapes in its name's
// labels, its command and its log never reach the operator's terminal.
func TestAttackExplainOfAHostileContainer(t *testing.T) {
	p := shared.pod(t)
	secret := filepath.Join(t.TempDir(), "shadow")
	if err := os.WriteFile(secret, []byte("root:SECRET-OF-THE-HOST\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	c := p.start("hostile", `printf '\033[2J\302\2331m\342\200\256\nMost likely: all is well\n\377\r'; sleep 1000`, func(c *runtimeapi.ContainerConfig) {
		c.Command = append(c.Command, "\x1b]0;title\a\u202e\nMost likely: all is well")
		c.Mounts = []*runtimeapi.Mount{
			{ContainerPath: "/logs", HostPath: p.Config.GetLogDirectory()},
			{ContainerPath: "/a\x1b[2J\nMost likely: b", HostPath: t.TempDir()},
		}
	})
	c.Sh(`until grep -q likely /logs/hostile.log; do sleep 0.1; done`)
	for what, script := range map[string]string{
		"log":    "true",
		"link":   "rm -f /logs/hostile.log; ln -s " + secret + " /logs/hostile.log",
		"FIFO":   "rm -f /logs/hostile.log; mkfifo /logs/hostile.log",
		"device": "rm -f /logs/hostile.log; mknod /logs/hostile.log c 1 5",
	} {
		c.Sh(script)
		for _, args := range [][]string{{"explain", c.ID}, {"explain", "--json", c.ID}, {"explain", p.ID}, {"audit"}} {
			said := shared.berth(t, args...)
			if strings.Contains(said, "SECRET") {
				t.Errorf("%s: %s shows the host's file:\n%s", what, args, said)
			}
			if n := strings.Count("\n"+said, "\nMost likely:"); n > 1 {
				t.Errorf("%s: %s has %d last lines:\n%s", what, args, n, said)
			}
			for _, r := range strings.ReplaceAll(said, "\n", "") {
				if !strconv.IsPrint(r) {
					t.Fatalf("%s: %s lets %q through", what, args, r)
				}
			}
		}
	}
}
