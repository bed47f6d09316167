package origin_test

import (
	"bufio"
	"bytes"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/gripway/gripway/gateway/origin"
	"github.com/gripway/gripway/grip"
)

// The benchmark's origin and clients are another process, so that the CPU time of
// this one is the gateway's.
const peerVariable = "GRIPWAY_ORIGIN_BENCH_PEER"

const benchBodyBytes = 1024

var benchRequest = []byte("GET /hello?x=1 HTTP/1.1\r\nHost: example.com\r\nUser-Agent: bench/1.0\r\nAccept: */*\r\n" +
	"Accept-Encoding: gzip\r\nAccept-Language: en\r\nCookie: a=b; c=d\r\n\r\n")

// runAsPeer is the other process: it prints the origin's address, then for each
// line "gateway requests clients" makes those requests and prints "done".
func runAsPeer() bool {
	if os.Getenv(peerVariable) == "" {
		return false
	}
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		panic(err)
	}
	answer := append([]byte("HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nServer: bench\r\nDate: Mon, 01 Jan 2024 00:00:00 GMT\r\n"+
		"Content-Length: "+strconv.Itoa(benchBodyBytes)+"\r\n\r\n"), make([]byte, benchBodyBytes)...)
	go func() {
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				for reader := bufio.NewReader(conn); skipHead(reader, nil) == nil; {
					conn.Write(answer)
				}
			}()
		}
	}()
	fmt.Println(ln.Addr())
	for {
		var gateway string
		var requests, clients int
		if _, err := fmt.Scan(&gateway, &requests, &clients); err != nil {
			return true
		}
		var left atomic.Int64
		left.Store(int64(requests))
		var all sync.WaitGroup
		for range clients {
			all.Go(func() {
				conn, err := net.Dial("tcp", gateway)
				if err != nil {
					panic(err)
				}
				defer conn.Close()
				reader := bufio.NewReader(conn)
				for left.Add(-1) >= 0 {
					conn.Write(benchRequest)
					length := 0
					if err := skipHead(reader, &length); err != nil || length != benchBodyBytes {
						panic(fmt.Sprint("answer of ", length, " bytes: ", err))
					}
					reader.Discard(length)
				}
			})
		}
		all.Wait()
		fmt.Println("done")
	}
}

func skipHead(reader *bufio.Reader, length *int) error {
	for {
		line, err := reader.ReadSlice('\n')
		if err != nil || len(line) == 2 {
			return err
		}
		if value, found := bytes.CutPrefix(line, []byte("Content-Length: ")); found && length != nil {
			*length, _ = strconv.Atoi(string(bytes.TrimSpace(value)))
		}
	}
}

// BenchmarkProxy relays answers of 1 KiB through Rules, Pool and Relay. Besides
// time it reports this process's CPU time per request; "no origin" is what the
// server alone costs.
func BenchmarkProxy(b *testing.B) {
	peer := exec.Command(os.Args[0])
	peer.Env = append(os.Environ(), peerVariable+"=1")
	in, err := peer.StdinPipe()
	if err != nil {
		b.Fatal(err)
	}
	out, err := peer.StdoutPipe()
	if err != nil {
		b.Fatal(err)
	}
	if err := peer.Start(); err != nil {
		b.Fatal(err)
	}
	defer peer.Wait()
	defer in.Close()
	answers := bufio.NewReader(out)
	var addr string
	fmt.Fscanln(answers, &addr)

	key, err := grip.ParseKey("changeme", "")
	if err != nil {
		b.Fatal(err)
	}
	rules := &origin.Rules{Signer: grip.NewSigner("gripway", key).Sign, Feature: grip.Feature}
	proxy := &relayer{rules: rules, pool: poolOf(b, addr)}
	body := make([]byte, benchBodyBytes)
	alone := http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "text/plain")
		w.Write(body)
	})
	for _, way := range []struct {
		name string
		http.Handler
	}{{"no origin", alone}, {"origin", proxy}} {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			b.Fatal(err)
		}
		server := &http.Server{Handler: way.Handler}
		go server.Serve(ln)
		for _, clients := range []int{1, 64} {
			b.Run(fmt.Sprintf("%s/clients=%d", way.name, clients), func(b *testing.B) {
				b.ReportAllocs()
				before := cpuTime()
				b.ResetTimer()
				fmt.Fprintln(in, ln.Addr(), b.N, clients)
				if line, err := answers.ReadString('\n'); line != "done\n" {
					b.Fatalf("peer: %q, %v", line, err)
				}
				b.ReportMetric(float64(cpuTime()-before)/float64(b.N)/float64(time.Microsecond), "cpu-µs/op")
			})
		}
		server.Close()
	}
}

// BenchmarkPrepare is what Rules alone cost.
func BenchmarkPrepare(b *testing.B) {
	key, err := grip.ParseKey("changeme", "")
	if err != nil {
		b.Fatal(err)
	}
	rules := &origin.Rules{Signer: grip.NewSigner("gripway", key).Sign, Feature: grip.Feature}
	r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(benchRequest)))
	if err != nil {
		b.Fatal(err)
	}
	b.ReportAllocs()
	for b.Loop() {
		if _, _, err := rules.Prepare(r, origin.Call{}); err != nil {
			b.Fatal(err)
		}
	}
}

// BenchmarkLargeBody relays 64 MiB at a time.
func BenchmarkLargeBody(b *testing.B) {
	for _, framing := range []string{"known length", "chunked"} {
		b.Run(framing, func(b *testing.B) {
			const size = 64 << 20
			block := make([]byte, 256<<10)
			server := newBenchOrigin(b, func(w http.ResponseWriter, r *http.Request) {
				if framing == "known length" {
					w.Header().Set("Content-Length", strconv.Itoa(size))
				}
				for range size / len(block) {
					w.Write(block)
				}
			})
			gateway := newGateway(b, &relayer{pool: poolOf(b, server)})
			b.SetBytes(size)
			for b.Loop() {
				response, err := http.Get("http://" + gateway + "/")
				if err != nil {
					b.Fatal(err)
				}
				n, err := io.Copy(io.Discard, response.Body)
				response.Body.Close()
				if n != size || err != nil {
					b.Fatal(n, err)
				}
			}
			http.DefaultClient.CloseIdleConnections()
		})
	}
}

func newBenchOrigin(b *testing.B, handler http.HandlerFunc) string {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	server := &http.Server{Handler: handler}
	go server.Serve(ln)
	b.Cleanup(func() { server.Close() })
	return ln.Addr().String()
}
