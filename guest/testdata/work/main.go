// Work is a guest that computes: what it costs to be able to stop it is measured
// with it. Its argument says what it does.
package main

import (
	"crypto/sha256"
	"encoding/json"
	"os"
	"sort"
	"strconv"
)

var sink uint64

func fib(n int) int {
	if n < 2 {
		return n
	}
	return fib(n-1) + fib(n-2)
}

type record struct {
	Name   string
	Counts []int
	Values map[string]float64
}

func main() {
	n, _ := strconv.Atoi(os.Args[2])
	buffer := make([]byte, 1<<20)
	for range n {
		switch os.Args[1] {
		case "loop":
			x := uint64(0)
			for i := range uint64(50_000_000) {
				x ^= i
			}
			sink = x
		case "sha256":
			sum := sha256.Sum256(buffer)
			sink += uint64(sum[0])
		case "sort":
			list := make([]int, 200_000)
			for i := range list {
				list[i] = i * 7919 % 200_003
			}
			sort.Ints(list)
		case "json":
			v := record{"name", make([]int, 2000), map[string]float64{"x": 1, "y": 2}}
			for range 20 {
				b, _ := json.Marshal(v)
				json.Unmarshal(b, &v)
			}
		case "calls":
			sink += uint64(fib(32))
		case "copies":
			to := make([]byte, 64)
			for i := range 3_000_000 {
				copy(to, buffer[i&0xffff:][:64])
			}
		}
	}
}
