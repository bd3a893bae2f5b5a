package integration

import (
	"path/filepath"
	"strings"
	"testing"

	"berth/test/node"
)

// The real clients reach exec over TLS on every path when their machine trusts the
// certificate, as the kubelet does, and not when it does not.
func TestStreamTLS(t *testing.T) {
	n := own(t, node.Options{Args: []string{"--stream-tls", "self-signed,min=1.3"}})
	c := n.pod(t).idle("c")
	for _, p := range paths {
		x := newStreams(t, n).start(p, "exec", c.ID, "echo", "out")
		if code := x.wait(); code == 0 {
			t.Errorf("%s: an exec over TLS works without trust in the certificate", p.name)
		} else if told := x.stderr.String(); !p.kubelet && !strings.Contains(told, "certificate") {
			t.Errorf("%s: the client says %q, want a word on the certificate", p.name, told)
		}
	}
	t.Setenv("SSL_CERT_FILE", filepath.Join(n.State, "streams.crt"))
	s := newStreams(t, n)
	for _, p := range paths {
		x := s.start(p, "-stdin", "exec", c.ID, "sh", "-c", "read -r line; echo got $line; exit 7")
		if _, err := x.stdin.Write([]byte("text\n")); err != nil {
			t.Error(err)
		}
		x.says("got text")
		if code := x.wait(); code != 7 {
			t.Errorf("%s: an exec over TLS ended with %d: %s", p.name, code, x.stderr.String())
		}
	}
}
