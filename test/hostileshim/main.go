package main

import (
	"fmt"
	"log"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	task "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"
)

func main() {
	log.SetFlags(0)
	if err := run(os.Args[len(os.Args)-1]); err != nil {
		log.Fatal(err)
	}
}

func run(action string) error {
	behaviour := strings.TrimPrefix(filepath.Base(os.Args[0]), "shim-")
	switch action {
	case "start":
		return start()
	case "serve":
		return serve(behaviour)
	case "delete":
		return remove()
	}
	return fmt.Errorf("unknown action %q", action)
}

// start leaves a process in the background that serves on an inherited socket.
func start() error {
	dir, err := os.Getwd() // the bundle
	if err != nil {
		return err
	}
	address := "/berth-hostile/" + filepath.Base(dir) // abstract: a bundle's path may be too long
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: "@" + address})
	if err != nil {
		return err
	}
	socket, err := l.File()
	if err != nil {
		return err
	}
	server := exec.Command("/proc/self/exe", "serve")
	server.Args[0] = os.Args[0]
	server.ExtraFiles = []*os.File{socket}
	server.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if err := server.Start(); err != nil {
		return err
	}
	fmt.Printf(`{"version":3,"address":%q,"protocol":"ttrpc"}`, address)
	return nil
}

// remove says that the container was killed.
func remove() error {
	answer, err := proto.Marshal(&task.DeleteResponse{ExitStatus: 137, ExitedAt: timestamppb.New(time.Now())})
	if err != nil {
		return err
	}
	_, err = os.Stdout.Write(answer)
	return err
}

func serve(behaviour string) error {
	l, err := net.FileListener(os.NewFile(3, "socket"))
	if err != nil {
		return err
	}
	if do, ok := behaviours[behaviour]; ok {
		for {
			conn, err := l.Accept()
			if err != nil {
				return err
			}
			go do(conn)
		}
	}
	return serveTasks(l, kindOf(behaviour))
}
