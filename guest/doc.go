// Package guest runs WebAssembly programs that stand in front of the gateway and
// decide request by request: answer, fetch from a backend, or hand the client
// off to the gateway.
//
// A guest is an unmodified program written for an edge platform. Which platform
// it was written for shows in its imports and exports; package compute and its
// neighbours each speak for one ([ABI]). What they share is here: loading and
// compiling, instances and their memory, limits, what becomes of a guest that
// fails.
//
//	runtime, err := guest.NewRuntime(guest.RuntimeOptions{ABIs: []guest.ABI{compute.New(…)}})
//	program, err := runtime.Load(ctx, wasm, guest.LoadOptions{Name: "edge", Service: service})
//	outcome, err := program.Serve(ctx, guest.NewExchange(r))
//
// Every request has an instance of its own, with memory of its own; only a guest
// that asks for further requests is given some. The instance may go on after
// it has decided: Serve returns with the head of its answer, and the body streams.
//
// # Words
//
//   - program: a compiled guest; sandbox: one instance of it and all that it holds
//   - exchange: one request, from its arrival to the outcome
//   - outcome: what the guest decided, an answer or a handoff
//   - backend: a named origin that the guest may send requests to
package guest
