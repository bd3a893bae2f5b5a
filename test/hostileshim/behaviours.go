package main

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"
)

// behaviours are what is done with a connection by those that do not speak the protocol.
var behaviours = map[string]func(net.Conn){
	"closes": func(c net.Conn) { _ = c.Close() },
	"quits":  func(net.Conn) { os.Exit(0) },
	"mute":   func(c net.Conn) { _, _ = io.Copy(io.Discard, c) },
	"deaf":   func(net.Conn) {}, // it never reads
	"garbage": func(c net.Conn) {
		noise := bytes.Repeat([]byte{0xff, 0x00, 0x5a, 0x13}, 16<<10)
		for {
			if _, err := c.Write(noise); err != nil {
				return
			}
		}
	},
	"huge": func(c net.Conn) { // claims 4 GiB, and sends them
		zeros := make([]byte, 1<<20)
		_, err := c.Write(header(0xffffffff, 1))
		for err == nil {
			_, err = c.Write(zeros)
		}
	},
	"stray": func(c net.Conn) { // answers what nobody has asked
		many := bytes.Repeat(header(0, 4097), 1<<10)
		for {
			if _, err := c.Write(many); err != nil {
				return
			}
		}
	},
}

// header is that of a response in ttrpc.
func header(length, stream uint32) []byte {
	h := make([]byte, 10)
	binary.BigEndian.PutUint32(h, length)
	binary.BigEndian.PutUint32(h[4:], stream)
	h[8] = 2
	return h
}

// kind is what one that speaks the protocol does otherwise.
type kind struct {
	silent []string // the calls that it never answers
	pid    uint32   // what it gives for its own PID; 0: the right one
	shy    bool     // it does not tell its PID
}

var kinds = map[string]kind{
	"fair":  {},
	"stuck": {silent: []string{"Kill", "State", "Wait", "Stats", "Exec", "Update", "Delete", "Shutdown"}},
	"slow":  {silent: []string{"Create"}},
	"liar":  {pid: 1},
	"shy":   {shy: true, silent: []string{"Shutdown"}},
}

// kindOf is the kind of a behaviour: one of kinds, or silent-CALL, which never answers that
// call and does all else as it should.
func kindOf(behaviour string) kind {
	if call, ok := strings.CutPrefix(behaviour, "silent-"); ok {
		return kind{silent: []string{call}}
	}
	return kinds[behaviour]
}

// serveTasks answers the calls of the task API.
func serveTasks(l net.Listener, k kind) error {
	server, err := ttrpc.NewServer()
	if err != nil {
		return err
	}
	methods := map[string]ttrpc.Method{}
	for name, method := range tasks(k) {
		methods[name] = method
		if slices.Contains(k.silent, name) {
			methods[name] = func(context.Context, func(any) error) (any, error) { select {} }
		}
	}
	server.RegisterService("containerd.task.v3.Task", &ttrpc.ServiceDesc{Methods: methods})
	return server.Serve(context.Background(), l)
}

// tasks are the calls of one container, of whose process nothing but its end is told.
func tasks(k kind) map[string]ttrpc.Method {
	sleeper := exec.Command("/bin/sleep", "1000")
	sleeper.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	ended := make(chan struct{})
	empty := func(context.Context, func(any) error) (any, error) { return &emptypb.Empty{}, nil }
	return map[string]ttrpc.Method{
		"Connect": func(context.Context, func(any) error) (any, error) {
			switch {
			case k.shy:
				return nil, errors.New("no such call")
			case k.pid != 0:
				return &task.ConnectResponse{ShimPid: k.pid}, nil
			}
			return &task.ConnectResponse{ShimPid: uint32(os.Getpid())}, nil
		},
		"Create": func(context.Context, func(any) error) (any, error) {
			if err := sleeper.Start(); err != nil {
				return nil, err
			}
			go func() {
				defer close(ended)
				_ = sleeper.Wait() // it is killed
			}()
			return &task.CreateTaskResponse{Pid: uint32(sleeper.Process.Pid)}, nil
		},
		"Start": func(context.Context, func(any) error) (any, error) {
			return &task.StartResponse{Pid: uint32(sleeper.Process.Pid)}, nil
		},
		"Wait": func(context.Context, func(any) error) (any, error) {
			<-ended
			return &task.WaitResponse{ExitStatus: 137}, nil
		},
		"Kill": func(context.Context, func(any) error) (any, error) {
			return &emptypb.Empty{}, sleeper.Process.Kill()
		},
		"State": func(context.Context, func(any) error) (any, error) {
			select {
			case <-ended:
				return &task.StateResponse{Status: tasktypes.Status_STOPPED}, nil
			default:
				return &task.StateResponse{Status: tasktypes.Status_RUNNING}, nil
			}
		},
		"Stats": func(context.Context, func(any) error) (any, error) { return &task.StatsResponse{}, nil },
		"Exec":  empty, "Update": empty,
		"Delete": func(context.Context, func(any) error) (any, error) { return &task.DeleteResponse{}, nil },
		"Shutdown": func(context.Context, func(any) error) (any, error) {
			time.AfterFunc(10*time.Millisecond, func() { os.Exit(0) }) // once the answer is out
			return &emptypb.Empty{}, nil
		},
	}
}
