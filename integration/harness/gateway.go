package harness

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"syscall"
	"time"
)

const (
	// startTimeout is how long a gateway may take to be ready on a busy machine.
	startTimeout = time.Minute

	// StopTimeout is how long a gateway without clients may take to end after SIGTERM.
	StopTimeout = 10 * time.Second
)

// Gateway is one running gateway process.
type Gateway struct {
	// Fixed after start.
	Addr        string // clients, clear text
	TLSAddr     string // clients, TLS; "" without
	ControlAddr string // publish, metrics, health
	Peer        bool
	cmd         *exec.Cmd
	dir         string        // removed at the end; "" for none
	probe       *Origin       // of the peer's readiness
	gone        chan struct{} // closed when the process has ended

	// Guarded by mu.
	mu      sync.Mutex
	log     bytes.Buffer
	changed chan struct{} // closed, and replaced, by each write to log
	exit    error         // of Wait; to be read after gone
}

// GatewayOptions say which gateway.
type GatewayOptions struct {
	Program    string   // the binary of this repository, or of the peer
	Peer       bool     // Program is Pushpin
	Dir        string   // working directory; relative names in flags start here
	Routes     []string // lines, as for --route
	RoutesFile string   // or a file of them
	Flags      []string // further flags of serve; the peer knows those in peerKeys
	TLS        *Certificate

	// Pushpin names a pushpin.conf, and the gateway's ports are those it says. The
	// gateway is started by the name pushpin, then, and has no routes but the file's.
	// If it is the peer, what answers PeerReady has to be among them.
	Pushpin                    string
	Addr, TLSAddr, ControlAddr string
}

// StartGateway starts a gateway and returns once it is ready. If it ends before,
// the Gateway is returned with the error, for its log and exit code.
func StartGateway(options GatewayOptions) (*Gateway, error) {
	g := &Gateway{Peer: options.Peer, gone: make(chan struct{}), changed: make(chan struct{})}
	if options.Pushpin != "" {
		g.Addr, g.TLSAddr, g.ControlAddr = options.Addr, options.TLSAddr, options.ControlAddr
		if options.Peer {
			g.cmd = exec.Command(options.Program, append([]string{"--config=" + options.Pushpin, "--merge-output"}, options.Flags...)...)
		} else if err := g.preparePushpin(options); err != nil {
			return nil, err
		}
		return g, g.start(options)
	}
	var local [3]int
	for i := range local {
		port, err := FreePort()
		if err != nil {
			return nil, err
		}
		local[i] = port
	}
	g.Addr = fmt.Sprintf("127.0.0.1:%d", local[0])
	g.ControlAddr = fmt.Sprintf("127.0.0.1:%d", local[1])
	if options.TLS != nil {
		g.TLSAddr = fmt.Sprintf("127.0.0.1:%d", local[2])
	}
	var err error
	if options.Peer {
		err = g.preparePeer(options)
	} else {
		err = g.prepare(options)
	}
	if err != nil {
		return nil, err
	}
	return g, g.start(options)
}

// start runs the command and waits until it is ready.
func (g *Gateway) start(options GatewayOptions) error {
	g.cmd.Dir = options.Dir
	g.cmd.Stdout, g.cmd.Stderr = logWriter{g}, logWriter{g}
	g.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true} // a signal to us is not one to it
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "GRIPWAY_") {
			g.cmd.Env = append(g.cmd.Env, pair)
		}
	}
	if err := g.cmd.Start(); err != nil {
		return err
	}
	go func() { // ends with the process, which Close ends
		err := g.cmd.Wait()
		g.mu.Lock()
		g.exit = err
		g.mu.Unlock()
		close(g.gone)
	}()
	if err := g.ready(); err != nil {
		return fmt.Errorf("gateway is not ready: %w", err)
	}
	return nil
}

// preparePushpin makes a link to the program that is called pushpin.
func (g *Gateway) preparePushpin(options GatewayOptions) error {
	dir, err := shortDir("pushpin")
	if err != nil {
		return err
	}
	g.dir = dir
	link := filepath.Join(dir, "pushpin")
	if err := os.Symlink(options.Program, link); err != nil {
		return err
	}
	g.cmd = exec.Command(link, append([]string{"--config=" + options.Pushpin}, options.Flags...)...)
	return nil
}

func (g *Gateway) prepare(options GatewayOptions) error {
	args := []string{"serve", "--listen", g.Addr, "--control-listen", g.ControlAddr}
	for _, route := range options.Routes {
		args = append(args, "--route", route)
	}
	if options.RoutesFile != "" {
		args = append(args, "--routes", options.RoutesFile)
	}
	if options.TLS != nil {
		dir, err := shortDir("tls")
		if err != nil {
			return err
		}
		g.dir = dir
		cert, key := filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
		if err := errors.Join(os.WriteFile(cert, options.TLS.CertPEM, 0o600), os.WriteFile(key, options.TLS.KeyPEM, 0o600)); err != nil {
			return err
		}
		args = append(args, "--listen-tls", g.TLSAddr, "--tls-cert", cert, "--tls-key", key)
	}
	g.cmd = exec.Command(options.Program, append(args, options.Flags...)...)
	return nil
}

// ready waits for the line that says so; the peer has none, its ports tell.
func (g *Gateway) ready() error {
	if !g.Peer {
		_, err := g.WaitLog(regexp.MustCompile(`(?m)^ready$|"msg":"ready"|msg=ready\b`), startTimeout)
		return err
	}
	if err := listening(g.Addr, startTimeout, g.gone); err != nil {
		return err
	}
	if err := listening(g.ControlAddr, startTimeout, g.gone); err != nil {
		return err
	}
	return g.probePeer()
}

// WaitLog waits until the log matches and returns what did.
func (g *Gateway) WaitLog(pattern *regexp.Regexp, timeout time.Duration) (string, error) {
	timer := time.NewTimer(timeout)
	defer timer.Stop()
	gone := g.gone
	for {
		g.mu.Lock()
		match, changed := pattern.Find(g.log.Bytes()), g.changed
		g.mu.Unlock()
		if match != nil {
			return string(match), nil
		}
		if gone == nil {
			return "", errors.New("process has ended")
		}
		select {
		case <-changed:
		case <-gone:
			gone = nil // once more: the last lines come with the end
		case <-timer.C:
			return "", fmt.Errorf("log: %w after %v, nothing matches %s", ErrSilence, timeout, pattern)
		}
	}
}

// Log returns all that was logged.
func (g *Gateway) Log() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.log.String()
}

// Signal sends a signal to the process.
func (g *Gateway) Signal(signal os.Signal) error { return g.cmd.Process.Signal(signal) }

// Wait waits for the end of the process and returns its exit code, -1 if a signal ended it.
func (g *Gateway) Wait(timeout time.Duration) (code int, err error) {
	select {
	case <-g.gone:
		return g.cmd.ProcessState.ExitCode(), nil
	case <-time.After(timeout):
		return 0, fmt.Errorf("process runs on: %w after %v", ErrSilence, timeout)
	}
}

// Close asks the process to end, insists after [StopTimeout], and returns an
// error if it had to, or if the process did not end in order.
func (g *Gateway) Close() error {
	defer func() {
		syscall.Kill(-g.cmd.Process.Pid, syscall.SIGKILL) // and what it left behind
		<-g.gone
		if g.dir != "" {
			os.RemoveAll(g.dir)
		}
		if g.probe != nil {
			g.probe.Close()
		}
	}()
	select {
	case <-g.gone:
		return nil // the script ended it and looked at its exit code, or it broke and the script has failed
	default:
	}
	if err := g.Signal(syscall.SIGTERM); err != nil {
		return err
	}
	code, err := g.Wait(StopTimeout)
	if err == nil && code != 0 && !g.Peer {
		err = fmt.Errorf("after SIGTERM: exit code: got %d, want 0", code)
	}
	return err
}

type logWriter struct{ g *Gateway }

func (w logWriter) Write(b []byte) (int, error) {
	w.g.mu.Lock()
	defer w.g.mu.Unlock()
	w.g.log.Write(b)
	close(w.g.changed)
	w.g.changed = make(chan struct{})
	return len(b), nil
}
