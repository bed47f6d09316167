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
	"sync"

	"github.com/gripway/gripway/gateway/config"
	"github.com/gripway/gripway/gateway/control"
	"github.com/gripway/gripway/gateway/metrics"
)

// metricsHeaderBytes bounds a request for prometheus_port, as Pushpin does.
const metricsHeaderBytes = 8192

// servePushpin is the command pushpin: serve, and what only Pushpin has.
func servePushpin(ctx context.Context, c *config.PushpinCommand) error {
	p := &pushpin{command: c, log: os.Stderr}
	if c.LogFile != "" {
		file, err := os.OpenFile(c.LogFile, os.O_WRONLY|os.O_CREATE|os.O_APPEND, 0o644)
		if err != nil {
			return fmt.Errorf("--logfile: %w", err)
		}
		defer file.Close()
		p.log = file
	}
	return serve(ctx, &c.Config, nil, p)
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
