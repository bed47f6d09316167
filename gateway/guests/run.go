package guests

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/http"
	"net/netip"
	"os"
	"time"

	"github.com/gripway/gripway/gateway/config"
	"github.com/gripway/gripway/gateway/outbound"
	"github.com/gripway/gripway/guest"
	"github.com/gripway/gripway/guest/compute"
)

// Check compiles the guests of the settings, and tells what is wrong.
func Check(c *config.Config, log *slog.Logger) error {
	if len(c.Guest) == 0 {
		return nil
	}
	runtime, err := guest.NewRuntime(runtimeOptions(c, log))
	if err != nil {
		return err
	}
	defer runtime.Close()
	var errs []error
	for i := range c.Guest {
		g := &c.Guest[i]
		module, manifest, problems := g.Read()
		if len(problems) > 0 {
			errs = append(errs, problems)
			continue
		}
		backends, err := outbound.New(outbound.Options{Static: manifest.Backends})
		if err != nil {
			errs = append(errs, fmt.Errorf("guest %q: %w", g.Name, err))
			continue
		}
		program, err := runtime.Load(context.Background(), module, loadOptions(g, manifest, backends, nil, log, nil))
		if err != nil {
			errs = append(errs, err)
		} else {
			program.Close()
		}
		backends.Close()
	}
	return errors.Join(errs...)
}

// exitTrapped is the exit code of a run that ended with a trap: what shells say of
// a process that aborts.
const exitTrapped = 134

// Run is the command run: a guest once, as a program. It returns the exit code.
func Run(ctx context.Context, c *config.RunCommand, log *slog.Logger) int {
	failed := func(err error) int {
		fmt.Fprintln(os.Stderr, "gripway:", err)
		return 1
	}
	program := &c.Config.Guest[0]
	module, manifest, problems := program.Read()
	if problems = append(c.Problems(), problems...); len(problems) > 0 {
		return failed(problems)
	}
	for _, warning := range append(c.Warnings(), manifest.Warnings...) {
		log.Warn(warning.Error())
	}
	runtime, err := guest.NewRuntime(runtimeOptions(&c.Config, log))
	if err != nil {
		return failed(err)
	}
	defer runtime.Close()
	backends, err := outbound.New(outbound.Options{Static: manifest.Backends, Log: log})
	if err != nil {
		return failed(err)
	}
	defer backends.Close()
	stores, err := newStores(nil, nil, log).open(program.Name, manifest.Stores)
	if err != nil {
		return failed(err)
	}
	defer stores.Close()
	options := loadOptions(program, manifest, backends, stores, log, &c.GuestFlags)
	service := options.Service.(*compute.Service)
	service.Args, service.Stdin = c.Args, os.Stdin
	options.Limits.CPU, options.Limits.Wall = runTimeMax, runTimeMax
	loaded, err := runtime.Load(ctx, module, options)
	if err != nil {
		return failed(err)
	}
	defer loaded.Close()

	// Guests that ask for a request get one that nobody sent.
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://example.com/", http.NoBody)
	if err != nil {
		return failed(err)
	}
	r.RequestURI, r.RemoteAddr = "/", "127.0.0.1:0"
	x := guest.NewExchange(r)
	x.Client = guest.Client{Remote: netip.MustParseAddrPort("127.0.0.1:0"), Local: netip.MustParseAddrPort("127.0.0.1:0")}
	err = loaded.Run(ctx, x)
	var fault *guest.Fault
	switch {
	case err == nil:
		return 0
	case errors.As(err, &fault) && fault.Kind == guest.FaultExit:
		return int(fault.Code)
	case errors.As(err, &fault):
		fmt.Fprintln(os.Stderr, "gripway:", err)
		return exitTrapped
	}
	return failed(err)
}

// runTimeMax bounds a run: test suites take minutes.
const runTimeMax = 24 * time.Hour
