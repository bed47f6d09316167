package hold_test

import (
	"io"
	"net/http"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/hold"
)

// Of many long polls with times of their own none ends early. How late they are is
// printed: on an idle machine the last is well within 50 ms. It is no failure here,
// since a machine that is busy with other tests shows its own lateness.
func TestManyLongPollsEndInTheirTime(t *testing.T) {
	const polls, lateMax = 400, 10 * time.Second
	timeout := func(i int) time.Duration { return 500*time.Millisecond + time.Duration(i*7%1000)*time.Millisecond }
	var asked [polls]atomic.Pointer[time.Time] // set before its answer is sent, and read after it has come
	h := newHouse(t, hold.Options{}, false, func(r *http.Request) hold.Call {
		i, _ := strconv.Atoi(r.URL.Query().Get("poll"))
		now := time.Now()
		asked[i].Store(&now)
		return pollCall(timeout(i))
	})
	transport := &http.Transport{MaxIdleConnsPerHost: polls}
	defer transport.CloseIdleConnections()
	client := &http.Client{Transport: transport}
	var waiting sync.WaitGroup
	late := make([]time.Duration, polls)
	for i := range polls {
		waiting.Go(func() {
			response, err := client.Get("http://" + h.addr + "/?poll=" + strconv.Itoa(i))
			if err != nil {
				t.Error(err)
				return
			}
			late[i] = time.Since(*asked[i].Load()) - timeout(i)
			io.Copy(io.Discard, response.Body)
			response.Body.Close()
		})
	}
	waiting.Wait()
	slices.Sort(late)
	t.Logf("late: p50 %v, p99 %v, most %v", late[polls/2], late[polls*99/100], late[polls-1])
	if late[0] < 0 {
		t.Errorf("a poll ended %v before its time", -late[0])
	}
	if late[polls-1] > lateMax {
		t.Errorf("a poll ended %v after its time, want %v at most", late[polls-1], lateMax)
	}
}
