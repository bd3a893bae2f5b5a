package cri

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"sync"
	"testing"
	"time"

	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream/spdy"

	"berth/sandbox"
)

// encrypted is a server with a running container whose streams are over TLS, and what a
// client needs to trust it.
func encrypted(t *testing.T, exec func(context.Context, string, []string, sandbox.Streams) (int, error)) (*Server, runtimeapi.RuntimeServiceClient, *tls.Config) {
	t.Helper()
	other := httptest.NewTLSServer(nil) // has a certificate for 127.0.0.1
	other.Close()
	f := newFake()
	f.pods = []*sandbox.PodStatus{{ID: "p1", Config: podConfig("p")}}
	f.containers = []*sandbox.ContainerStatus{{ID: "c1", PodID: "p1", Config: containerConfig("c"), State: runtimeapi.ContainerState_CONTAINER_RUNNING}}
	f.exec = exec
	opt := options(f)
	opt.StreamTLS = &tls.Config{Certificates: other.TLS.Certificates, MinVersion: tls.VersionTLS12}
	s, conn := serve(t, opt)
	roots := x509.NewCertPool()
	roots.AddCert(other.Certificate())
	return s, runtimeapi.NewRuntimeServiceClient(conn), &tls.Config{RootCAs: roots, MinVersion: tls.VersionTLS12}
}

func encryptedURL(t *testing.T, client runtimeapi.RuntimeServiceClient) *url.URL {
	t.Helper()
	resp, err := client.Exec(t.Context(), &runtimeapi.ExecRequest{ContainerId: "c1", Cmd: []string{"cat"}, Stdin: true, Stdout: true})
	if err != nil {
		t.Fatal(err)
	}
	u, err := url.Parse(resp.GetUrl())
	if err != nil || u.Scheme != "https" {
		t.Fatalf("the URL of an exec over TLS is %q (%v)", resp.GetUrl(), err)
	}
	return u
}

// encryptedSession is [openSession] over TLS; end cuts its connection.
func encryptedSession(t *testing.T, client runtimeapi.RuntimeServiceClient, trust *tls.Config) (_ session, end func()) {
	t.Helper()
	rt, err := spdy.NewRoundTripper(trust)
	if err != nil {
		t.Fatal(err)
	}
	req, err := http.NewRequestWithContext(t.Context(), http.MethodPost, encryptedURL(t, client).String(), nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("X-Stream-Protocol-Version", "v4.channel.k8s.io")
	resp, err := (&http.Client{Transport: rt}).Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	conn, err := rt.NewConnection(resp)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	open(t, conn, "streamType", "error")
	return session{open(t, conn, "streamType", "stdin"), open(t, conn, "streamType", "stdout")}, func() { conn.Close() }
}

// An exec over TLS works, is refused to who does not trust the certificate, and ends with
// its client's connection though nothing reads from it.
func TestExecOverTLS(t *testing.T) {
	ended := make(chan error, 1)
	_, client, trust := encrypted(t, func(ctx context.Context, id string, cmd []string, s sandbox.Streams) (int, error) {
		if _, err := echo(ctx, id, cmd, s); err != nil {
			return 0, err
		}
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return 0, ctx.Err()
	})
	x, end := encryptedSession(t, client, trust)
	if _, err := io.WriteString(x.stdin, "still here"); err != nil {
		t.Error(err)
	}
	x.stdin.Close()
	buf := make([]byte, len("still here"))
	if _, err := io.ReadFull(x.stdout, buf); err != nil || string(buf) != "still here" {
		t.Errorf("the exec says %q, %v", buf, err)
	}
	end()
	select {
	case <-ended:
	case <-time.After(10 * time.Second):
		t.Error("the exec goes on without its client")
	}
	u := encryptedURL(t, client)
	if resp, err := http.Get(u.String()); err == nil {
		resp.Body.Close()
		t.Error("a client that does not know the certificate was served")
	}
	resp, err := http.Get("http://" + u.Host + u.Path)
	if err != nil {
		t.Fatal(err)
	}
	resp.Body.Close()
	if resp.StatusCode != http.StatusBadRequest {
		t.Errorf("a client without TLS got %s, want 400", resp.Status)
	}
}

// Strangers at a streaming port with TLS cost no more than at one without: a handshake
// that is not begun, not ended or followed by nothing ends within seconds, a crowd of
// them is held to the same bound, and HTTP/2, which can't be upgraded, is not spoken.
func TestAttackStreamHandshakes(t *testing.T) {
	s, client, trust := encrypted(t, echo)
	before, _ := encryptedSession(t, client, trust)
	files := descriptors(t)
	handshake := func() net.Conn {
		config := trust.Clone()
		config.ServerName, config.NextProtos = "127.0.0.1", []string{"h2", "http/1.1"}
		conn := tls.Client(knock(t, s, ""), config)
		if err := conn.Handshake(); err != nil {
			t.Fatal(err)
		}
		if p := conn.ConnectionState().NegotiatedProtocol; p == "h2" {
			t.Errorf("the server speaks %q", p)
		}
		return conn
	}
	var crowd []net.Conn
	for range 2 * maxStrangers {
		crowd = append(crowd, handshake())
	}
	// Each of ours is a descriptor too, and the newest of the server's may be closing.
	if now := descriptors(t) - len(crowd); now > files+maxStrangers+8 {
		t.Errorf("%d connections take %d descriptors of the server", len(crowd), now-files)
	}
	var wait sync.WaitGroup
	for what, conn := range map[string]net.Conn{
		"silent":                  knock(t, s, ""),
		"half a hello":            knock(t, s, "\x16\x03\x01\x02\x00\x01\x00"),
		"no TLS":                  knock(t, s, "GET /exec/x HTTP/1.1\r\nHost: x\r\n\r\n"),
		"a record without an end": knock(t, s, "\x16\x03\x01\x3f\xff"+strings.Repeat("x", 1000)),
		"only a handshake":        handshake(),
	} {
		wait.Go(func() {
			if said := ends(t, conn, 2*strangerTimeout); strings.HasPrefix(said, "HTTP/1.1 1") {
				t.Errorf("%s: it was let in: %q", what, said)
			}
		})
	}
	wait.Wait()
	before.check(t)
	after, _ := encryptedSession(t, client, trust)
	after.check(t)
}

// A URL has the name that the streaming address was configured with.
func TestURLHost(t *testing.T) {
	at := &net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 4711}
	for configured, want := range map[string]string{
		"127.0.0.1:0": "127.0.0.1:4711", "localhost:0": "localhost:4711", "node-1.example:4711": "node-1.example:4711",
		"": at.String(), ":0": at.String(), "0.0.0.0:0": at.String(),
	} {
		if got := urlHost(configured, at); got != want {
			t.Errorf("urlHost(%q) = %q, want %q", configured, got, want)
		}
	}
}
