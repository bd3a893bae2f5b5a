// Program client is one client-go client of exec, attach or port-forward, as kubectl
// and crictl are. It exists to be killed: the tests start it by the hundred and look
// at what stays in the runtime, the shim and the pod.
//
//	client [flags] exec ID COMMAND…   client [flags] attach ID   client [flags] forward POD PORT…
//
// Standard input, output and error are the session's. SIGTERM cancels the context, so
// that the client leaves in order. The code is the command's; 125 for other errors, whose
// text goes to standard error.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os"
	"os/signal"
	"strconv"
	"syscall"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/portforward"
	"k8s.io/client-go/tools/remotecommand"
	"k8s.io/client-go/transport/spdy"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
	streamhttp "k8s.io/streaming/pkg/httpstream"
)

var (
	endpoint  = flag.String("endpoint", "", "the CRI endpoint; the runtime is asked for a URL and dialed itself")
	via       = flag.String("via", "", "a URL of the program kubelet, which is asked instead")
	transport = flag.String("transport", "spdy", "spdy, or the WebSocket protocol: v5 or v4")
	stdin     = flag.Bool("stdin", false, "pass standard input")
	tty       = flag.Bool("tty", false, "ask for a terminal")
	size      = flag.String("size", "", "the terminal's size, WIDTHxHEIGHT")
	times     = flag.Int("times", 1, "run the command as often, one after the other")
)

func main() {
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM)
	defer stop()
	err := errors.New("usage: client [flags] exec|attach|forward ID …")
	if flag.NArg() >= 2 {
		for range *times {
			if err = run(ctx, flag.Arg(0), flag.Arg(1), flag.Args()[2:]); err != nil {
				break
			}
		}
	}
	var exit interface{ ExitStatus() int }
	switch {
	case errors.As(err, &exit):
		os.Exit(exit.ExitStatus())
	case err != nil:
		fmt.Fprintln(os.Stderr, err)
		os.Exit(125)
	}
}

func run(ctx context.Context, kind, id string, args []string) error {
	q := url.Values{"id": {id}, "command": args, "stdout": {"true"}}
	if *stdin {
		q.Set("stdin", "true")
	}
	if *tty {
		q.Set("tty", "true")
	} else {
		q.Set("stderr", "true")
	}
	u, err := address(ctx, kind, q)
	if err != nil {
		return err
	}
	if kind == "forward" {
		return forward(ctx, u, args)
	}
	opts := remotecommand.StreamOptions{Stdout: os.Stdout, Tty: *tty}
	if *stdin {
		opts.Stdin = os.Stdin
	}
	if !*tty {
		opts.Stderr = os.Stderr
	}
	if *size != "" {
		q := &sizes{ctx: ctx}
		if _, err := fmt.Sscanf(*size, "%dx%d", &q.first.Width, &q.first.Height); err != nil {
			return err
		}
		opts.TerminalSizeQueue = q
	}
	x, err := executor(u)
	if err != nil {
		return err
	}
	return x.StreamWithContext(ctx, opts)
}

// sizes is a terminal that never changes.
type sizes struct {
	ctx   context.Context
	first remotecommand.TerminalSize
	told  bool
}

func (s *sizes) Next() *remotecommand.TerminalSize {
	if s.told {
		<-s.ctx.Done()
		return nil
	}
	s.told = true
	return &s.first
}

func executor(u *url.URL) (remotecommand.Executor, error) {
	config := &rest.Config{}
	if *transport == "spdy" {
		return remotecommand.NewSPDYExecutor(config, http.MethodPost, u)
	}
	return remotecommand.NewWebSocketExecutorForProtocols(config, http.MethodGet, u.String(), *transport+".channel.k8s.io")
}

// address is where the stream is served.
func address(ctx context.Context, kind string, q url.Values) (*url.URL, error) {
	if *via != "" {
		return url.Parse(*via + "/" + kind + "?" + q.Encode())
	}
	conn, err := grpc.NewClient(*endpoint, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	rt := runtimeapi.NewRuntimeServiceClient(conn)
	var answer interface{ GetUrl() string }
	switch kind {
	case "exec":
		answer, err = rt.Exec(ctx, &runtimeapi.ExecRequest{ContainerId: q.Get("id"), Cmd: q["command"], Tty: *tty, Stdin: *stdin, Stdout: true, Stderr: !*tty})
	case "attach":
		answer, err = rt.Attach(ctx, &runtimeapi.AttachRequest{ContainerId: q.Get("id"), Tty: *tty, Stdin: *stdin, Stdout: true, Stderr: !*tty})
	case "forward":
		answer, err = rt.PortForward(ctx, &runtimeapi.PortForwardRequest{PodSandboxId: q.Get("id")})
	default:
		err = fmt.Errorf("no task is called %q", kind)
	}
	if err != nil {
		return nil, err
	}
	return url.Parse(answer.GetUrl())
}

// forward prints the local port of each port once all are served.
func forward(ctx context.Context, u *url.URL, ports []string) error {
	d, err := dialer(u)
	if err != nil {
		return err
	}
	var wanted []string
	for _, p := range ports {
		wanted = append(wanted, "0:"+p)
	}
	ready := make(chan struct{})
	f, err := portforward.NewOnAddressesForStreamingWithContext(ctx, d, []string{"127.0.0.1"}, wanted, ready, io.Discard, os.Stderr)
	if err != nil {
		return err
	}
	ended := make(chan error, 1)
	go func() { ended <- f.ForwardPorts() }()
	select {
	case err := <-ended:
		return err
	case <-ready:
	}
	all, err := f.GetPorts()
	if err != nil {
		return err
	}
	line := ""
	for _, p := range all {
		line += strconv.Itoa(int(p.Local)) + " "
	}
	fmt.Println(line)
	return <-ended
}

func dialer(u *url.URL) (streamhttp.Dialer, error) {
	config := &rest.Config{}
	if *transport != "spdy" {
		return portforward.NewSPDYOverWebsocketDialerForStreaming(u, config)
	}
	rt, upgrader, err := spdy.RoundTripperFor(config)
	if err != nil {
		return nil, err
	}
	return spdy.NewDialerForStreaming(upgrader, &http.Client{Transport: rt}, http.MethodPost, u), nil
}
