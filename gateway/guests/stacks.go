package guests

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"strings"
)

// stacks is a handler that writes the stacks of guests that failed on lines of their own,
// for people who develop them: in one line of a log nobody can read them.
type stacks struct {
	slog.Handler
	out io.Writer
}

// Handle implements slog.Handler.
func (s stacks) Handle(ctx context.Context, record slog.Record) error {
	stack := ""
	short := slog.NewRecord(record.Time, record.Level, record.Message, record.PC)
	record.Attrs(func(a slog.Attr) bool {
		if a.Key == "error" {
			text, rest, found := strings.Cut(a.Value.String(), "\nwasm stack trace:\n")
			if found {
				a.Value, stack = slog.StringValue(text), rest
			}
		}
		short.AddAttrs(a)
		return true
	})
	if err := s.Handler.Handle(ctx, short); err != nil || stack == "" {
		return err
	}
	_, err := fmt.Fprintln(s.out, strings.TrimRight(stack, "\n"))
	return err
}

// WithAttrs implements slog.Handler.
func (s stacks) WithAttrs(attrs []slog.Attr) slog.Handler {
	return stacks{s.Handler.WithAttrs(attrs), s.out}
}

// WithGroup implements slog.Handler.
func (s stacks) WithGroup(name string) slog.Handler { return stacks{s.Handler.WithGroup(name), s.out} }
