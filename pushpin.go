package main

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"os/signal"
	"sync"
	"syscall"

	"github.com/gripway/gripway/gateway/config"
	"github.com/gripway/gripway/gateway/control"
	"github.com/gripway/gripway/gateway/metrics"
)

// metricsHeaderBytes bounds a request for prometheus_port, as Pushpin does.
const metricsHeaderBytes = 8192

// servePushpin is the command pushpin: serve, and what only Pushpin has.
func servePushpin(ctx context.Context, c *config.PushpinCommand) error {
	p := &pushpin{command: c, log: os.Stderr}
	// SIGHUP never ends Pushpin, whether it has a routes file to read again or not.
	hangup := make(chan os.Signal, 1)
	signal.Notify(hangup, syscall.SIGHUP)
	defer signal.Stop(hangup)
	if c.LogFile != "" {
		file := &logFile{path: c.LogFile}
		if err := file.open(); err != nil {
			return fmt.Errorf("--logfile: %w", err)
		}
		defer file.close()
		p.log = file
		var reopening sync.WaitGroup
		ended := make(chan struct{}) // closed before we wait
		reopening.Go(func() {
			for {
				select {
				case <-hangup:
					file.open() // if it fails the log goes on where it was
				case <-ended:
					return
				}
			}
		})
		defer reopening.Wait()
		defer close(ended)
	}
	return serve(ctx, &c.Config, nil, p)
}

// logFile is a file that may be moved away and opened anew. It may be used
// concurrently.
type logFile struct {
	path string

	// Guarded by mu.
	mu   sync.Mutex
	file *os.File
}

// open opens the file that has the name now.
func (f *logFile) open() error {
	file, err := os.OpenFile(f.path, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.file != nil {
		f.file.Close()
	}
	f.file = file
	return nil
}

func (f *logFile) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.file.Close()
}

func (f *logFile) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.file.Write(b)
}

// pushpin is what the command pushpin adds to serve; nil is serve itself.
type pushpin struct {
	command *config.PushpinCommand
	log     io.Writer
}

// logOutput is where the log goes.
func (p *pushpin) logOutput() io.Writer {
	if p == nil {
		return os.Stderr
	}
	return p.log
}

// publishHeaderBytes bounds the header of a request to the private API.
func (p *pushpin) publishHeaderBytes() int {
	if p == nil {
		return control.HeaderBytesMax
	}
	return cmp.Or(p.command.PublishHeaderBytes, control.HeaderBytesMax)
}

// startMetrics opens the listeners of prometheus_port. stop closes them.
func (p *pushpin) startMetrics(registry *metrics.Registry, held func() int, log *slog.Logger) (stop func(), err error) {
	if p == nil || len(p.command.Metrics) == 0 {
		return func() {}, nil
	}
	view := metrics.NewPushpin(registry, held)
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	var servers []*http.Server
	stop = func() {
		cancel()
		for _, server := range servers {
			server.Close()
		}
		running.Wait()
	}
	running.Go(func() { view.Run(ctx) })
	for _, at := range p.command.Metrics {
		listener, err := net.Listen("tcp", at.Addr)
		if err != nil {
			stop()
			return nil, fmt.Errorf("prometheus_port: %w", err)
		}
		server := &http.Server{
			Handler: view.Handler(at.Prefix), MaxHeaderBytes: metricsHeaderBytes,
			ReadTimeout: headerTimeout, WriteTimeout: headerTimeout, IdleTimeout: idleTimeout,
			ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		}
		servers = append(servers, server)
		running.Go(func() {
			if err := server.Serve(listener); !errors.Is(err, http.ErrServerClosed) {
				log.Error("prometheus_port", "error", err)
			}
		})
		fmt.Printf("listening for Prometheus on %s\n", listener.Addr())
	}
	return stop, nil
}

// started tells those who wait for Pushpin: the Fastly CLI goes on after a line
// that ends so.
func (p *pushpin) started() {
	if p != nil {
		fmt.Println("started")
	}
}
