package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"time"
)

// Ports on the loopback, each with a way to treat a connection. All greet with a line.
var ports = map[string]func(*net.TCPConn){
	"8001": func(c *net.TCPConn) { // says each line again
		for in := bufio.NewScanner(c); in.Scan(); {
			fmt.Fprintln(c, in.Text())
		}
		c.Close()
	},
	"8002": func(c *net.TCPConn) { // answers a while after the end of the request
		n, err := io.Copy(io.Discard, c)
		time.Sleep(3 * time.Second)
		fmt.Fprintf(c, "%d bytes, %v\n", n, err)
		c.Close()
	},
	"8003": func(c *net.TCPConn) { // reads, and never closes
		io.Copy(io.Discard, c)
		select {}
	},
	"8004": func(*net.TCPConn) { select {} }, // neither reads nor closes
	"8005": func(c *net.TCPConn) { c.Close() },
}

// servePorts serves them until it is killed.
func servePorts([]string) (int, error) {
	for port, serve := range ports {
		l, err := net.Listen("tcp", "127.0.0.1:"+port)
		if err != nil {
			return 0, err
		}
		go func() {
			for {
				c, err := l.Accept()
				if err != nil {
					return
				}
				fmt.Fprintln(c, "welcome")
				go serve(c.(*net.TCPConn))
			}
		}()
	}
	fmt.Println("ready")
	select {}
}
