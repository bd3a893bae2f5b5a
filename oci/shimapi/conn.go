package shimapi

import (
	"context"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"time"
)

// Conn is the client's side of one call. The first error of the connection is kept, and
// every method called after it returns that error or does nothing, as in [bufio.Writer]. So
// a caller looks at the error once, when it reads the response.
type Conn struct {
	conn *net.UnixConn // nil: err is set
	err  error

	wantStages bool
	stages     []Stage
}

// Dial connects to the shim that serves a socket. ctx bounds the connecting only.
func Dial(ctx context.Context, socket string) *Conn {
	var d net.Dialer
	conn, err := d.DialContext(ctx, "unix", socket)
	if err != nil {
		return Failed(err)
	}
	return &Conn{conn: conn.(*net.UnixConn)}
}

// Failed is a call that has failed already.
func Failed(err error) *Conn { return &Conn{err: err} }

// WantStages is called before the request is written by a client that wants to know what
// the shim does for it.
func (c *Conn) WantStages() { c.wantStages = true }

// Stages are those of the response that was read last.
func (c *Conn) Stages() []Stage { return c.stages }

// WriteRequest sends the request of the call, together with files. These stay the caller's.
func (c *Conn) WriteRequest(method string, body any, files ...*os.File) {
	if c.err != nil {
		return
	}
	data, err := json.Marshal(body)
	if err != nil {
		c.err = fmt.Errorf("encode %s: %w", method, err)
		return
	}
	frame, err := encodeFrame(Request{Method: method, Body: data, Stages: c.wantStages}, len(files))
	if err == nil {
		err = send(c.conn, frame, files)
	}
	c.err = err
}

// ReadResponse reads the next response into body, which may be nil. The files that came
// with it are the caller's. What the shim refuses is an [*Error]. It is not an error of the
// connection, so it is not kept.
func (c *Conn) ReadResponse(body any) ([]*os.File, error) {
	if c.err != nil {
		return nil, c.err
	}
	var r Response
	files, err := ReadFrame(c.conn, &r)
	if err != nil {
		c.err = err
		return nil, err
	}
	c.stages = r.Stages
	if r.Error != nil {
		CloseFiles(files)
		return nil, r.Error
	}
	if body != nil && len(r.Body) > 0 {
		if err := json.Unmarshal(r.Body, body); err != nil {
			CloseFiles(files)
			c.err = fmt.Errorf("decode response: %w", err)
			return nil, c.err
		}
	}
	return files, nil
}

// Err returns the error that was kept.
func (c *Conn) Err() error { return c.err }

// Interrupt makes a read or write that is under way, and all later ones, fail.
func (c *Conn) Interrupt() {
	if c.conn != nil {
		_ = c.conn.SetDeadline(time.Unix(1, 0)) // an error: it is closed
	}
}

// Close ends the call. For the shim this means that the client has hung up.
func (c *Conn) Close() {
	if c.conn != nil {
		_ = c.conn.Close() // closing twice does no harm
	}
}
