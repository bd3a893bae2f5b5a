// Program kubelet serves exec, attach and port-forward as a kubelet does: it asks the
// runtime for a URL, and the API server's own handlers join a client with it. A client
// of WebSocket is translated to SPDY, or its tunnel is taken off; others are passed
// through.
//
//	kubelet ENDPOINT
//
// It prints its own URL, and ends when its standard input does.
package main

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/apimachinery/pkg/util/proxy"
	apiproxy "k8s.io/apiserver/pkg/util/proxy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	"k8s.io/streaming/pkg/httpstream/wsstream"
)

func main() {
	if err := serve(os.Args[1]); err != nil {
		fmt.Fprintln(os.Stderr, "kubelet:", err)
		os.Exit(1)
	}
}

func serve(endpoint string) error {
	conn, err := grpc.NewClient(endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	k := &kubelet{runtimeapi.NewRuntimeServiceClient(conn)}
	// One connection, from the beginning: the tests count what the runtime has open.
	if _, err := k.runtime.Version(context.Background(), &runtimeapi.VersionRequest{}); err != nil {
		return err
	}
	mux := http.NewServeMux()
	mux.HandleFunc("/exec", k.stream(k.exec))
	mux.HandleFunc("/attach", k.stream(k.attach))
	mux.HandleFunc("/forward", k.stream(k.forward))
	s := &http.Server{Handler: mux, ReadHeaderTimeout: time.Minute}
	go s.Serve(l)
	fmt.Println("http://" + l.Addr().String())
	_, err = io.Copy(io.Discard, os.Stdin)
	return err
}

type kubelet struct {
	runtime runtimeapi.RuntimeServiceClient
}

type located interface{ GetUrl() string }

func (k *kubelet) exec(ctx context.Context, id string, cmd []string, o apiproxy.Options) (located, error) {
	return k.runtime.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: id, Cmd: cmd, Tty: o.Tty, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr})
}

func (k *kubelet) attach(ctx context.Context, id string, _ []string, o apiproxy.Options) (located, error) {
	return k.runtime.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: id, Tty: o.Tty, Stdin: o.Stdin, Stdout: o.Stdout, Stderr: o.Stderr})
}

func (k *kubelet) forward(ctx context.Context, id string, _ []string, _ apiproxy.Options) (located, error) {
	return k.runtime.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: id})
}

type asker func(ctx context.Context, id string, cmd []string, o apiproxy.Options) (located, error)

func (k *kubelet) stream(ask asker) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		q := r.URL.Query()
		is := func(name string) bool { return q.Get(name) == "true" }
		o := apiproxy.Options{Stdin: is("stdin"), Stdout: is("stdout"), Stderr: is("stderr"), Tty: is("tty")}
		answer, err := ask(r.Context(), q.Get("id"), q["command"], o)
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		u, err := url.Parse(answer.GetUrl())
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		var h http.Handler = proxy.NewUpgradeAwareHandler(u, nil, false, true, responder{})
		switch {
		case wsstream.IsWebSocketRequestWithStreamCloseProtocol(r):
			h = apiproxy.NewStreamTranslatorHandler(u, nil, 0, o)
		case wsstream.IsWebSocketRequestWithTunnelingProtocol(r):
			h = apiproxy.NewTunnelingHandler(h)
		}
		h.ServeHTTP(w, r)
	}
}

type responder struct{}

func (responder) Error(w http.ResponseWriter, _ *http.Request, err error) {
	http.Error(w, err.Error(), http.StatusBadGateway)
}
