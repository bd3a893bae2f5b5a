package operator

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/wrapperspb"
	runtimeapi "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// maxAnswer is the largest message a client takes, in bytes, as the kubelet does.
const maxAnswer = 16 << 20

// Client talks to a running berthd. Errors are gRPC statuses.
type Client struct {
	conn  grpc.ClientConnInterface
	close func() error
}

// NewClient uses a connection that is there, and does not close it.
func NewClient(conn grpc.ClientConnInterface) *Client {
	return &Client{conn: conn, close: func() error { return nil }}
}

// Dial makes a client for a socket, given as a path or unix:// URL. It connects
// at the first call.
func Dial(socket string) (*Client, error) {
	target := "unix://" + strings.TrimPrefix(socket, "unix://")
	conn, err := grpc.NewClient(target,
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxAnswer)))
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", socket, err)
	}
	return &Client{conn: conn, close: conn.Close}, nil
}

// Close ends a connection made by [Dial].
func (c *Client) Close() error { return c.close() }

// Runtime is the CRI on the same connection.
func (c *Client) Runtime() runtimeapi.RuntimeServiceClient {
	return runtimeapi.NewRuntimeServiceClient(c.conn)
}

// Images is the CRI's ImageService on the same connection.
func (c *Client) Images() runtimeapi.ImageServiceClient {
	return runtimeapi.NewImageServiceClient(c.conn)
}

// Load sends a docker-archive or OCI archive and returns the names of the
// images in it. progress may be nil. r may still be in a Read when the server
// ended the call early.
func (c *Client) Load(ctx context.Context, r io.Reader, progress func(string)) ([]string, error) {
	// The sending goroutine ends with the stream, which ends with this context.
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.open(ctx, methodLoad)
	if err != nil {
		return nil, err
	}
	sent := make(chan error, 1)
	go func() {
		err := sendAll(stream, r)
		sent <- err
		if err != nil && !errors.Is(err, io.EOF) {
			// Cut the stream, so that half an archive is never taken for a whole
			// one. io.EOF is the server's doing, and its answer is on the way.
			cancel()
		}
	}()
	images, err := receive(stream, progress)
	select {
	case serr := <-sent:
		// What the local file could not give explains more than the server's view of it.
		if serr != nil && err != nil && !errors.Is(serr, io.EOF) {
			return nil, errors.Join(serr, err)
		}
	default:
	}
	return images, err
}

// sendAll returns io.EOF when the server has ended the call.
func sendAll(stream grpc.ClientStream, r io.Reader) error {
	w := bufio.NewWriterSize(chunkWriter{func(m *wrapperspb.BytesValue) error { return stream.SendMsg(m) }}, chunkSize)
	if _, err := io.Copy(w, r); err != nil {
		return err
	}
	if err := w.Flush(); err != nil {
		return err
	}
	return stream.CloseSend()
}

// Pull fetches an image without credentials and returns its ID.
func (c *Client) Pull(ctx context.Context, ref string, progress func(string)) (string, error) {
	stream, err := c.ask(ctx, methodPull, request{Refs: []string{ref}})
	if err != nil {
		return "", err
	}
	images, err := receive(stream, progress)
	if err != nil || len(images) == 0 {
		return "", err
	}
	return images[0], nil
}

// Export writes the images as one OCI archive.
func (c *Client) Export(ctx context.Context, refs []string, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stream, err := c.ask(ctx, methodExport, request{Refs: refs})
	if err != nil {
		return err
	}
	r := &chunkReader{recv: func() ([]byte, error) {
		m := &wrapperspb.BytesValue{}
		err := stream.RecvMsg(m)
		return m.GetValue(), err
	}}
	_, err = io.Copy(w, r)
	return err
}

// Check compares the image store with what it should hold; the report is JSON.
func (c *Client) Check(ctx context.Context, repair bool) (json.RawMessage, error) {
	in, err := pack(request{Repair: repair})
	if err != nil {
		return nil, err
	}
	out := &wrapperspb.StringValue{}
	if err := c.conn.Invoke(ctx, "/"+serviceName+"/"+methodCheck, in, out); err != nil {
		return nil, err
	}
	return json.RawMessage(out.GetValue()), nil
}

// Info describes the daemon.
func (c *Client) Info(ctx context.Context) (Info, error) {
	var info Info
	out := &wrapperspb.StringValue{}
	if err := c.conn.Invoke(ctx, InfoMethod, &emptypb.Empty{}, out); err != nil {
		return info, err
	}
	return info, unpack(out, &info)
}

func (c *Client) open(ctx context.Context, name string) (grpc.ClientStream, error) {
	return c.conn.NewStream(ctx, &grpc.StreamDesc{StreamName: name, ClientStreams: true, ServerStreams: true}, "/"+serviceName+"/"+name)
}

func (c *Client) ask(ctx context.Context, name string, req request) (grpc.ClientStream, error) {
	in, err := pack(req)
	if err != nil {
		return nil, err
	}
	stream, err := c.open(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := stream.SendMsg(in); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	return stream, stream.CloseSend()
}

// receive reads to the end of the stream, which must have brought the result.
func receive(stream grpc.ClientStream, progress func(string)) ([]string, error) {
	var images []string
	done := false
	for {
		m := &wrapperspb.StringValue{}
		err := stream.RecvMsg(m)
		if errors.Is(err, io.EOF) {
			if !done {
				return nil, fmt.Errorf("berthd ended the call without a result: %w", io.ErrUnexpectedEOF)
			}
			return images, nil
		}
		if err != nil {
			return nil, err
		}
		var u update
		if err := unpack(m, &u); err != nil {
			return nil, err
		}
		if u.Progress != "" && progress != nil {
			progress(u.Progress)
		}
		if u.Done {
			done, images = true, u.Images
		}
	}
}
