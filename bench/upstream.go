package main

import (
	"bufio"
	"bytes"
	"errors"
	"flag"
	"net"
)

var thanks = []byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: 2\r\n\r\nok")

// upstreamCommand is `upstream`: the app behind Caddy, in a process of its own. It
// does as little as an app can: it takes requests without a body, and answers "ok"
// to those that carry a token.
func upstreamCommand(args []string) error {
	flags := flag.NewFlagSet("upstream", flag.ExitOnError)
	address := flags.String("listen", "", "the address to listen on")
	if err := flags.Parse(args); err != nil {
		return err
	}
	listener, err := net.Listen("tcp", *address)
	if err != nil {
		return err
	}
	for {
		conn, err := listener.Accept()
		if err != nil {
			return err
		}
		go func() {
			defer conn.Close()
			_ = answerAll(conn)
		}()
	}
}

func answerAll(conn net.Conn) error {
	in := bufio.NewReaderSize(conn, 16<<10)
	for {
		token := false
		for {
			line, err := in.ReadSlice('\n')
			if err != nil {
				return err
			}
			if len(line) <= 2 {
				break
			}
			token = token || bytes.HasPrefix(line, []byte("Authorization: Bearer APP_USR-"))
		}
		if !token {
			return errors.New("a request without a token")
		}
		if _, err := conn.Write(thanks); err != nil {
			return err
		}
	}
}
