package guests

import (
	"log/slog"
	"regexp"
	"strconv"
	"strings"
	"sync"
	"testing"

	"github.com/gripway/gripway/gateway/config"
	"github.com/gripway/gripway/gateway/metrics"
)

// lines is where a log goes that several write to.
type lines struct {
	mu   sync.Mutex
	text strings.Builder
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func TestAGuestThatLogsWithoutEndDoesNotFillTheDisk(t *testing.T) {
	var to lines
	registry := metrics.New()
	all := &Guests{log: slog.New(slog.NewTextHandler(&to, nil)), opts: Options{Metrics: registry}}
	budget := all.newLogBudget(&config.Guest{Name: "app", LogRate: 16 << 10})
	log := slog.New(limitedLog{all.log.Handler(), budget}).With("endpoint", "stdout")
	const writers, each, size = 8, 500, 1000
	var writing sync.WaitGroup
	for range writers {
		writing.Go(func() {
			for range each {
				log.Info(strings.Repeat("x", size))
			}
		})
	}
	writing.Wait()
	got := strings.Count(to.text.String(), "msg=xxx")
	burst := 160 << 10 / (size + logLineBytes)
	if got < burst || got > 2*burst { // some time has passed
		t.Errorf("%d lines were logged, want about %d of %d", got, burst, writers*each)
	}
	told := regexp.MustCompile(`lines are dropped" guest=app lines=(\d+)`).FindAllStringSubmatch(to.text.String(), -1)
	if len(told) != 1 {
		t.Fatalf("the log was told %d times, want once: it was not ten seconds", len(told))
	}
	first, _ := strconv.ParseInt(told[0][1], 10, 64)
	if untold := budget.untold.Load(); first < 1 || first+untold != int64(writers*each-got) {
		t.Errorf("%d lines were told of and %d are yet to be, want the %d that were dropped", first, untold, writers*each-got)
	}
	if all.newLogBudget(&config.Guest{Name: "app"}) != nil {
		t.Error("a guest without a limit has one")
	}
}
