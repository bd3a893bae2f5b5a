package shimv2

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"

	"github.com/containerd/containerd/api/events"
	ttrpcevents "github.com/containerd/containerd/api/services/ttrpc/events/v1"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/emptypb"
)

// topicOOM is the topic of a TaskOOM event.
const topicOOM = "/tasks/oom"

// eventServer takes the events of shims (TTRPC_ADDRESS). The ends of processes are not
// learned from events, since these may be lost with a replacement of this process, but by
// waiting for each process; what is left is that the OOM killer was active.
type eventServer struct {
	server *ttrpc.Server
	socket string
	oom    func(container string)
}

func serveEvents(socket string, oom func(container string)) (*eventServer, error) {
	if err := os.Remove(socket); err != nil && !errors.Is(err, fs.ErrNotExist) { // of a process that died
		return nil, err
	}
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: socket})
	if err != nil {
		return nil, fmt.Errorf("socket for the events of shims: %w", err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		return nil, errors.Join(err, l.Close())
	}
	e := &eventServer{server: server, socket: socket, oom: oom}
	ttrpcevents.RegisterTTRPCEventsService(server, e)
	go func() {
		if err := server.Serve(context.Background(), l); err != nil && !errors.Is(err, ttrpc.ErrServerClosed) {
			slog.Error("events of shims are not served any more", "error", err)
		}
	}()
	return e, nil
}

// Forward takes one event.
func (e *eventServer) Forward(_ context.Context, r *ttrpcevents.ForwardRequest) (*emptypb.Empty, error) {
	if env := r.GetEnvelope(); env.GetTopic() == topicOOM {
		var event events.TaskOOM
		if err := proto.Unmarshal(env.GetEvent().GetValue(), &event); err == nil {
			e.oom(event.GetContainerID())
		}
	}
	return &emptypb.Empty{}, nil
}

func (e *eventServer) close() error { return e.server.Close() }
