package operator

import (
	"encoding/json"
	"fmt"
	"io"

	"google.golang.org/protobuf/types/known/wrapperspb"
)

const (
	serviceName = "berth.v1.Operator"
	chunkSize   = 1 << 20

	methodLoad   = "ImageLoad"
	methodExport = "ImageExport"
	methodPull   = "ImagePull"
	methodCheck  = "ImageCheck"
	methodInfo   = "DaemonInfo"
)

// InfoMethod is the full name of DaemonInfo, which is answered at any time.
const InfoMethod = "/" + serviceName + "/" + methodInfo

// Info describes the daemon.
type Info struct {
	Version    string          `json:"version"`
	Go         string          `json:"go"`
	PID        int             `json:"pid"`
	UptimeSec  int64           `json:"uptimeSeconds"`
	Ready      bool            `json:"ready"` // recovery is done
	Pods       int             `json:"pods"`
	Containers int             `json:"containers"`
	Images     int             `json:"images"`
	Streaming  string          `json:"streamingAddress"`
	Shims      []Shim          `json:"shims,omitempty"`
	InFlight   []string        `json:"inFlight,omitempty"` // calls that run
	RPCs       json.RawMessage `json:"rpcs,omitempty"`     // count and latency by method
}

// Shim is a shim that serves.
type Shim struct {
	ID           string `json:"id"`
	PID          int    `json:"pid"`
	Version      string `json:"version"`      // berth's
	Libcontainer string `json:"libcontainer"` // its version
	Pods         int    `json:"pods"`
}

// request is what the client asks of every call but DaemonInfo.
type request struct {
	Refs   []string `json:"refs,omitempty"`
	Repair bool     `json:"repair,omitempty"`
}

// update is one message of a call that takes a while.
type update struct {
	Progress string   `json:"progress,omitempty"`
	Done     bool     `json:"done,omitempty"`
	Images   []string `json:"images,omitempty"` // the result, with Done
}

func pack(v any) (*wrapperspb.StringValue, error) {
	b, err := json.Marshal(v)
	if err != nil {
		return nil, fmt.Errorf("encode %T: %w", v, err)
	}
	return wrapperspb.String(string(b)), nil
}

func unpack(m *wrapperspb.StringValue, v any) error {
	if err := json.Unmarshal([]byte(m.GetValue()), v); err != nil {
		return fmt.Errorf("decode %T: %w", v, err)
	}
	return nil
}

// chunkWriter sends what is written in chunks.
type chunkWriter struct {
	send func(*wrapperspb.BytesValue) error
}

func (w chunkWriter) Write(p []byte) (n int, err error) {
	for len(p) > 0 {
		part := p[:min(len(p), chunkSize)]
		if err := w.send(wrapperspb.Bytes(part)); err != nil {
			return n, err
		}
		n += len(part)
		p = p[len(part):]
	}
	return n, nil
}

// chunkReader reads what chunks bring; io.EOF when recv says so.
type chunkReader struct {
	recv func() ([]byte, error)
	rest []byte
}

func (r *chunkReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		chunk, err := r.recv()
		if err != nil {
			return 0, err
		}
		r.rest = chunk
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

var _ io.Reader = (*chunkReader)(nil)
