package sandbox

import (
	"encoding/json"
	"net"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"berth/oci/shimapi"
)

// terminal is an exec with a terminal, here a socket, that prints a line and ends.
func (f *fakeShim) terminal(conn *net.UnixConn) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		f.t.Error(err)
		return
	}
	master, slave := os.NewFile(uintptr(fds[0]), "master"), os.NewFile(uintptr(fds[1]), "slave")
	body, _ := json.Marshal(shimapi.ExecStarted{PID: os.Getpid()})
	err = shimapi.WriteFrame(conn, shimapi.Response{Body: body}, master)
	_ = master.Close()
	if err == nil {
		_, err = slave.WriteString("on the terminal\n")
	}
	_ = slave.Close()
	if err != nil {
		return
	}
	body, _ = json.Marshal(shimapi.ExitStatus{Code: 7, FinishedAt: time.Now()})
	_ = shimapi.WriteFrame(conn, shimapi.Response{Body: body})
}
