package cri

import (
	"context"
	"slices"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"

	"berth/sandbox"
)

// maxOutput is how much output ExecSync returns, in bytes. The CRI allows 16 MiB
// for each of stdout and stderr, but its clients take messages of 16 MiB at
// most: two full streams would make the call fail, which the CRI forbids.
const maxOutput = 16<<20 - 4<<10

// ExecSync is cancelled with its client, unlike the calls that change something: a probe
// is not repeated, so that nobody would join it.
func (s *runtimeService) ExecSync(ctx context.Context, req *runtimeapi.ExecSyncRequest) (*runtimeapi.ExecSyncResponse, error) {
	if err := firstError(checkID("container_id", req.GetContainerId()), sandbox.CheckCommand(req.GetCmd())); err != nil {
		return nil, err
	}
	timeout, err := seconds(req.GetTimeout())
	if err != nil {
		return nil, err
	}
	res, err := s.opt.Domain.ExecSync(ctx, req.GetContainerId(), req.GetCmd(), timeout)
	if err != nil {
		return nil, err
	}
	stdout, stderr := capOutput(res.Stdout, res.Stderr, maxOutput)
	return &runtimeapi.ExecSyncResponse{Stdout: stdout, Stderr: stderr, ExitCode: res.ExitCode}, nil
}

// capOutput cuts both to limit bytes in all; what one leaves of its half the
// other may use.
func capOutput(stdout, stderr []byte, limit int) (out, errOut []byte) {
	half := limit / 2
	nOut, nErr := len(stdout), len(stderr)
	switch {
	case nOut+nErr <= limit:
	case nOut <= half:
		nErr = limit - nOut
	case nErr <= half:
		nOut = limit - nErr
	default:
		nOut, nErr = half, half
	}
	return stdout[:nOut], stderr[:nErr]
}

func (s *runtimeService) Exec(_ context.Context, req *runtimeapi.ExecRequest) (*runtimeapi.ExecResponse, error) {
	if err := firstError(
		checkID("container_id", req.GetContainerId()),
		sandbox.CheckCommand(req.GetCmd()),
		checkStreams(req.GetTty(), req.GetStdin(), req.GetStdout(), req.GetStderr()),
	); err != nil {
		return nil, err
	}
	c, err := s.runningContainer(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	kept := &runtimeapi.ExecRequest{
		ContainerId: c.ID, Cmd: slices.Clone(req.GetCmd()), Tty: req.GetTty(),
		Stdin: req.GetStdin(), Stdout: req.GetStdout(), Stderr: req.GetStderr(),
	}
	url, err := s.streams.tokens.give(commandBytes(kept.GetCmd()), func() (string, error) {
		answer, err := s.streams.server.GetExec(kept)
		return answer.GetUrl(), err
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.ExecResponse{Url: url}, nil
}

func (s *runtimeService) Attach(_ context.Context, req *runtimeapi.AttachRequest) (*runtimeapi.AttachResponse, error) {
	if err := firstError(
		checkID("container_id", req.GetContainerId()),
		checkStreams(req.GetTty(), req.GetStdin(), req.GetStdout(), req.GetStderr()),
	); err != nil {
		return nil, err
	}
	c, err := s.runningContainer(req.GetContainerId())
	if err != nil {
		return nil, err
	}
	if req.GetTty() && !c.Config.GetTty() {
		return nil, status.Errorf(codes.FailedPrecondition, "container %s has no terminal; attach without tty, or create it with one", c.ID)
	}
	return s.streams.server.GetAttach(&runtimeapi.AttachRequest{
		ContainerId: c.ID, Tty: req.GetTty(),
		Stdin: req.GetStdin(), Stdout: req.GetStdout(), Stderr: req.GetStderr(),
	})
}

func (s *runtimeService) PortForward(_ context.Context, req *runtimeapi.PortForwardRequest) (*runtimeapi.PortForwardResponse, error) {
	if err := checkID("pod_sandbox_id", req.GetPodSandboxId()); err != nil {
		return nil, err
	}
	for _, p := range req.GetPort() {
		if err := sandbox.CheckPort(p); err != nil {
			return nil, err
		}
	}
	p, err := s.opt.Domain.Pod(req.GetPodSandboxId())
	if err != nil {
		return nil, err
	}
	if err := p.CanForward(); err != nil {
		return nil, err
	}
	kept := &runtimeapi.PortForwardRequest{PodSandboxId: p.ID, Port: slices.Clone(req.GetPort())}
	url, err := s.streams.tokens.give(portBytes*len(kept.GetPort()), func() (string, error) {
		answer, err := s.streams.server.GetPortForward(kept)
		return answer.GetUrl(), err
	})
	if err != nil {
		return nil, err
	}
	return &runtimeapi.PortForwardResponse{Url: url}, nil
}

// checkStreams: a terminal has one output.
func checkStreams(tty, stdin, stdout, stderr bool) error {
	if tty && stderr {
		return invalid("tty and stderr are both set; a terminal has one output, so leave stderr out")
	}
	if !stdin && !stdout && !stderr {
		return invalid("none of stdin, stdout and stderr is set; set at least one")
	}
	return nil
}

func (s *Server) runningContainer(id string) (*sandbox.ContainerStatus, error) {
	c, err := s.opt.Domain.Container(id)
	if err != nil {
		return nil, err
	}
	return c, c.CanExec()
}
