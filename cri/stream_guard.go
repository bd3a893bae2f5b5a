package cri

import (
	"container/list"
	"net"
	"net/http"
	"sync"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"k8s.io/klog/v2"
)

// The streaming port is open to everything that can reach its address: other
// processes of the machine, and pods in its network. Until a connection has shown a
// token, it gets no more than this.
const (
	// strangerTimeout is for all of a request that is not upgraded, and for its answer.
	// A client of exec, attach or port-forward sends its request at once.
	strangerTimeout = 5 * time.Second
	// strangerHeader is the longest head of a request, in bytes. The address has only a
	// token in it; a proxy may add some headers.
	strangerHeader = 32 << 10
	// maxStrangers is how many connections without a token there may be. The oldest goes
	// for a new one, so that those who wait never keep out those who have a token.
	maxStrangers = 128
	// tokenBytes is how much memory the requests of one token's life may take in all:
	// a command may be megabytes long, and its token may never be used.
	tokenBytes = 64 << 20
	// portBytes is what a port of a port-forward takes in memory.
	portBytes = 4
	// tokenLife is how long the streaming library keeps a token, and at most 1,000 of
	// them.
	tokenLife = time.Minute
)

// guard makes s a server for strangers. The timeouts end with the upgrade.
func guard(s *http.Server) {
	s.ReadHeaderTimeout, s.ReadTimeout, s.WriteTimeout = strangerTimeout, strangerTimeout, strangerTimeout
	s.MaxHeaderBytes = strangerHeader
	s.SetKeepAlivesEnabled(false)     // a connection is for one stream, and never idle
	s.Protocols = new(http.Protocols) // HTTP/2 can't be upgraded to SPDY or WebSocket
	s.Protocols.SetHTTP1(true)
	s.ConnState = (&strangers{at: make(map[net.Conn]*list.Element)}).changed
}

// strangers are the connections that have shown no token yet.
type strangers struct {
	mu  sync.Mutex
	age list.List // of net.Conn, the oldest first
	at  map[net.Conn]*list.Element
}

// changed is called by the server for each connection before anything is read from
// it, when it is upgraded, and when it was closed.
func (s *strangers) changed(c net.Conn, state http.ConnState) {
	switch state {
	case http.StateNew:
		if old := s.add(c); old != nil {
			klog.V(2).InfoS("Closed a connection to the streaming port that had shown no token, for there are too many", "peer", old.RemoteAddr())
			_ = plain(old).Close() // TLS would wait for a peer that takes no goodbye
		}
	case http.StateHijacked, http.StateClosed:
		s.remove(c)
	case http.StateActive, http.StateIdle:
	}
}

// add gives the connection that has to go for c, or nil.
func (s *strangers) add(c net.Conn) net.Conn {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.at[c] = s.age.PushBack(c)
	if s.age.Len() <= maxStrangers {
		return nil
	}
	oldest, _ := s.age.Remove(s.age.Front()).(net.Conn)
	delete(s.at, oldest)
	return oldest
}

func (s *strangers) remove(c net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if e := s.at[c]; e != nil {
		s.age.Remove(e)
		delete(s.at, c)
	}
}

// tokens bounds the memory of the requests that wait for their tokens. Whether a
// token was used only the library knows, so all of the last minute count.
type tokens struct {
	mu    sync.Mutex
	given list.List // of given, the oldest first
	bytes int
}

type given struct {
	at    time.Time
	bytes int
}

// give gets the address of a stream from the library for a request of n bytes.
func (t *tokens) give(n int, get func() (url string, err error)) (string, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for e := t.given.Front(); e != nil; e = t.given.Front() {
		old, _ := e.Value.(given)
		if time.Since(old.at) <= tokenLife {
			break
		}
		t.bytes -= old.bytes
		t.given.Remove(e)
	}
	if t.bytes+n > tokenBytes {
		return "", status.Errorf(codes.ResourceExhausted, "the commands of the last minute take more than %d bytes; wait a minute, or give the program its input in a file", tokenBytes)
	}
	url, err := get()
	if err == nil {
		t.given.PushBack(given{time.Now(), n})
		t.bytes += n
	}
	return url, err
}

// commandBytes is about what a command takes in memory.
func commandBytes(cmd []string) int {
	const header = 16 // of a string in Go
	n := header * len(cmd)
	for _, arg := range cmd {
		n += len(arg)
	}
	return n
}
