package main

import (
	"bufio"
	"crypto/tls"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/url"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"
)

// load is what is sent to one address, over connections that are kept open. The
// client is a small one of our own: what it costs, the proxy cannot use.
type load struct {
	url         string
	headers     []string
	connections int
	warmUp      time.Duration
	length      time.Duration
	// In url and headers, {n} is the number of a seller: one of pick numbers that
	// lie evenly between 1 and among.
	pick, among int
	// once sends one request for each number, in turn, and then ends.
	once bool
	// pid is the process whose CPU time is measured; 0 is none.
	pid int
	// status is what every answer is to have.
	status int
}

// loaded is what came of it.
type loaded struct {
	Requests int           `json:"requests"`
	Wrong    int           `json:"wrong"` // answers with another status
	Elapsed  time.Duration `json:"elapsed_ns"`
	CPU      time.Duration `json:"cpu_ns"`
	P50      time.Duration `json:"p50_ns"`
	P99      time.Duration `json:"p99_ns"`
}

// add adds another load, as long; what is a latency becomes the sum of both, which
// only compares with another such sum.
func (l *loaded) add(other loaded) {
	l.Requests += other.Requests
	l.Elapsed += other.Elapsed
	l.CPU += other.CPU
	l.P50 += other.P50
	l.P99 += other.P99
}

func (l loaded) cpuPerRequest() float64 { return float64(l.CPU) / float64(l.Requests) }
func (l loaded) perSecond() float64     { return float64(l.Requests) / l.Elapsed.Seconds() }

func (l *load) define(flags *flag.FlagSet) {
	flags.StringVar(&l.url, "url", "", "the `address` to send requests to; {n} is the number of a seller")
	flags.Func("header", "a `header` to send, as in \"X-Seller: shop-{n}\"; may come again", func(text string) error {
		l.headers = append(l.headers, text)
		return nil
	})
	flags.IntVar(&l.connections, "connections", 64, "how many connections are open, with one request at a time on each")
	flags.DurationVar(&l.warmUp, "warm-up", time.Second, "how long to send before anything is measured")
	flags.DurationVar(&l.length, "for", 10*time.Second, "how long to measure")
	flags.IntVar(&l.pick, "pick", 1, "how many sellers the requests are for, in any order")
	flags.IntVar(&l.among, "among", 0, "among how many they lie evenly (default: as many)")
	flags.BoolVar(&l.once, "once", false, "send one request for each of the sellers, and end")
	flags.IntVar(&l.pid, "pid", 0, "the process whose CPU time is measured (on Linux)")
	flags.IntVar(&l.status, "status", 200, "the status that every answer is to have")
}

// loadCommand is `load`: it prints what it measured as JSON.
func loadCommand(args []string) error {
	var l load
	flags := flag.NewFlagSet("load", flag.ExitOnError)
	l.define(flags)
	if err := flags.Parse(args); err != nil {
		return err
	}
	if l.url == "" || flags.NArg() > 0 {
		return errors.New("write load --url <address>, and what else `load -h` lists")
	}
	got, err := l.run()
	if err != nil {
		return err
	}
	return json.NewEncoder(os.Stdout).Encode(got)
}

// arguments are those with which a process of its own sends the load.
func (l *load) arguments() []string {
	args := append(make([]string, 0, 18+2*len(l.headers)),
		"load", "--url", l.url, "--connections", strconv.Itoa(l.connections), "--warm-up", l.warmUp.String(), "--for", l.length.String(),
		"--pick", strconv.Itoa(max(l.pick, 1)), "--among", strconv.Itoa(l.among), "--pid", strconv.Itoa(l.pid), "--status", strconv.Itoa(l.status),
		"--once="+strconv.FormatBool(l.once),
	)
	for _, header := range l.headers {
		args = append(args, "--header", header)
	}
	return args
}

// run sends the load.
func (l *load) run() (loaded, error) {
	at, err := url.Parse(l.url)
	if err != nil || at.Host == "" {
		return loaded{}, fmt.Errorf("%q is no address: write http://host:port/path", l.url)
	}
	l.pick = max(l.pick, 1)
	l.among = max(l.among, l.pick)
	clients := make([]*client, l.connections)
	for i := range clients {
		if clients[i], err = l.dial(at); err != nil {
			return loaded{}, err
		}
		defer clients[i].conn.Close()
	}
	var next atomic.Int64
	if !l.once && l.warmUp > 0 {
		if err := l.send(clients, &next, time.Now().Add(l.warmUp)); err != nil {
			return loaded{}, err
		}
	}
	for _, c := range clients {
		c.took, c.wrong = c.took[:0], 0
	}
	next.Store(0)
	cpu, begun := cpuTime(l.pid), time.Now()
	err = l.send(clients, &next, begun.Add(l.length))
	got := loaded{Elapsed: time.Since(begun), CPU: cpuTime(l.pid) - cpu}
	var took []time.Duration
	for _, c := range clients {
		took = append(took, c.took...)
		got.Wrong += c.wrong
	}
	slices.Sort(took)
	got.Requests = len(took)
	if got.Requests > 0 {
		got.P50, got.P99 = took[len(took)/2], took[len(took)*99/100]
	}
	return got, err
}

// send has every client send one request after the other, until a time, or until
// each seller had one.
func (l *load) send(clients []*client, next *atomic.Int64, until time.Time) error {
	errs := make([]error, len(clients))
	var done sync.WaitGroup
	for i, c := range clients {
		done.Go(func() {
			for errs[i] == nil {
				n := rand.IntN(l.pick) //nolint:gosec // as in shuffled
				if l.once {
					if n = int(next.Add(1)) - 1; n >= l.pick {
						return
					}
				} else if !time.Now().Before(until) {
					return
				}
				errs[i] = c.exchange(1+n*(l.among/l.pick), l.status)
			}
		})
	}
	done.Wait()
	return errors.Join(errs...)
}

// client is one connection.
type client struct {
	conn    net.Conn
	in      *bufio.Reader
	parts   []string // of the request, with a number between each two
	request []byte
	took    []time.Duration
	wrong   int
}

func (l *load) dial(at *url.URL) (*client, error) {
	host := at.Host
	if at.Port() == "" {
		host = net.JoinHostPort(at.Hostname(), map[string]string{"https": "443"}[at.Scheme])
		if at.Scheme != "https" {
			host = net.JoinHostPort(at.Hostname(), "80")
		}
	}
	var conn net.Conn
	var err error
	if at.Scheme == "https" {
		conn, err = tls.Dial("tcp", host, &tls.Config{ServerName: at.Hostname(), MinVersion: tls.VersionTLS12})
	} else {
		conn, err = net.Dial("tcp", host)
	}
	if err != nil {
		return nil, err
	}
	_, target, _ := strings.Cut(l.url, at.Host)
	if target == "" {
		target = "/"
	}
	lines := append([]string{"GET " + target + " HTTP/1.1", "Host: " + at.Host}, l.headers...)
	text := strings.Join(lines, "\r\n") + "\r\n"
	return &client{
		conn: conn, in: bufio.NewReaderSize(conn, 16<<10), parts: strings.Split(text+"\r\n", "{n}"),
		took: make([]time.Duration, 0, 1<<14),
	}, nil
}

// exchange sends a request and reads the answer.
func (c *client) exchange(n, status int) error {
	c.request = append(c.request[:0], c.parts[0]...)
	for _, part := range c.parts[1:] {
		c.request = strconv.AppendInt(c.request, int64(n), 10)
		c.request = append(c.request, part...)
	}
	begun := time.Now()
	if err := c.conn.SetDeadline(begun.Add(time.Minute)); err != nil {
		return err
	}
	if _, err := c.conn.Write(c.request); err != nil {
		return fmt.Errorf("sending a request: %w", err)
	}
	got, err := c.answer()
	if err != nil {
		return fmt.Errorf("reading an answer: %w", err)
	}
	c.took = append(c.took, time.Since(begun))
	if got != status {
		c.wrong++
	}
	return nil
}

// answer reads one answer and returns its status.
func (c *client) answer() (status int, err error) {
	line, err := c.in.ReadSlice('\n')
	if err != nil {
		return 0, err
	}
	if len(line) < len("HTTP/1.1 200") {
		return 0, errors.New("it is no HTTP")
	}
	if status, err = strconv.Atoi(string(line[9:12])); err != nil {
		return 0, err
	}
	length, chunked := 0, false
	for {
		line, err := c.in.ReadSlice('\n')
		if err != nil {
			return 0, err
		}
		text := line[:len(line)-1]
		if len(text) > 0 && text[len(text)-1] == '\r' {
			text = text[:len(text)-1]
		}
		if len(text) == 0 {
			break
		}
		if value, ok := field(text, "content-length"); ok {
			if length, err = strconv.Atoi(value); err != nil {
				return 0, err
			}
		} else if value, ok := field(text, "transfer-encoding"); ok {
			chunked = strings.EqualFold(value, "chunked")
		}
	}
	if chunked {
		return status, c.chunks()
	}
	_, err = c.in.Discard(length)
	return status, err
}

// chunks reads a body that comes in pieces.
func (c *client) chunks() error {
	for {
		line, err := c.in.ReadString('\n')
		if err != nil {
			return err
		}
		size, err := strconv.ParseInt(strings.TrimSpace(line), 16, 32)
		if err != nil {
			return err
		}
		if _, err := io.CopyN(io.Discard, c.in, size+2); err != nil {
			return err
		}
		if size == 0 {
			return nil
		}
	}
}

// field returns the value of a header line, if it is that header's.
func field(line []byte, name string) (string, bool) {
	if len(line) <= len(name) || line[len(name)] != ':' || !strings.EqualFold(string(line[:len(name)]), name) {
		return "", false
	}
	return strings.TrimSpace(string(line[len(name)+1:])), true
}
