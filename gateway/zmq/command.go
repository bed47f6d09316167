package zmq

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/gripway/gripway/gateway/cluster"
	"github.com/gripway/gripway/pubsub"
)

// A command is a tnetstring, and so is its answer; requests of one connection are
// answered one after the other:
//
//	{id, method, args}    {id, success: true, value}
//	                      {id, success: false, condition[, value: why]}
//
//	conncheck     ids: […]         those that are alive
//	get-zmq-uris                   {command, publish-pull, publish-sub}: what is bound
//	recover                        all holds ask their origins again
//	refresh       cid or channel   WebSockets over HTTP send an empty request; a channel's
//	                               on all nodes
//	publish       items: […]       all are checked before the first is published
//
// What cannot be read is answered too, bad-request and without an id: a REQ socket
// would wait for ever. Only what is too large, or has no way back, is skipped.
const (
	conditionBadRequest = "bad-request"
	conditionNoMethod   = "method-not-found"
	conditionNoItem     = "item-not-found"

	// conditionUnavailable is ours: the bus did not take an item; trying again may help.
	conditionUnavailable = "unavailable"
)

// refreshItem is what refresh publishes to a channel.
const refreshItem = `{"formats":{"ws-message":{"action":"refresh"}}}`

// idsMax bounds what one conncheck asks for.
const idsMax = 100_000

// refusal is an answer that is not a success.
type refusal struct{ condition, why string }

func (r *refusal) Error() string { return r.condition + ": " + r.why }

// rep is the command socket.
func (in *Intake) rep() socket {
	return socket{typeRep, []string{"REQ", "DEALER"}, in.serveCommands, make(chan struct{}, connectionsMax)}
}

func (in *Intake) serveCommands(c *peerConn, _ bool) error {
	for {
		parts, err := c.read()
		if reason := reasonOf(err); reason != "" {
			in.refuse(typeRep, reason, err)
			continue
		}
		if err != nil {
			return err
		}
		// The way back is all up to the first empty part (RFC 28).
		way := 0
		for way < len(parts) && len(parts[way]) > 0 {
			way++
		}
		if way+2 != len(parts) {
			in.refuse(typeRep, refusedParts, fmt.Errorf("%w: want an empty one and a command", errParts))
			continue
		}
		answer := in.answer(parts[way+1])
		if err := c.writeMessage(append(parts[:way+1:way+1], answer)); err != nil {
			return err
		}
	}
}

// answer does a command.
func (in *Intake) answer(request []byte) []byte {
	var members, args dict
	value, err := readTnetstring(bytes.TrimPrefix(request, []byte{letterTnetstring}))
	if err == nil {
		var ok bool
		if members, ok = value.(dict); !ok {
			err = errors.New("a command is a dictionary")
		}
	}
	id, _ := members["id"].([]byte)
	method, ok := members["method"].([]byte)
	if err == nil && !ok {
		err = errors.New("a command has a method")
	}
	if args, ok = members["args"].(dict); err == nil && !ok && members["args"] != nil {
		err = errors.New("args are a dictionary")
	}
	answer := dict{"success": true}
	if members["id"] != nil {
		answer["id"] = id
	}
	if err != nil {
		in.refuse(typeRep, refusedInvalid, err)
		err = &refusal{conditionBadRequest, err.Error()}
	} else {
		value, err = in.do(string(method), args)
		in.stats.commands.Inc()
	}
	answer["value"] = value
	if refused := (*refusal)(nil); errors.As(err, &refused) {
		answer["success"], answer["condition"] = false, refused.condition
		delete(answer, "value")
		if refused.why != "" {
			answer["value"] = refused.why
		}
	}
	return appendTnetstring(nil, answer)
}

// do does a method. Its error is a *refusal.
func (in *Intake) do(method string, args dict) (any, error) {
	switch {
	case method == "conncheck" && in.actions.Alive != nil:
		ids, err := texts(args["ids"])
		if err != nil {
			return nil, err
		}
		return in.actions.Alive(ids), nil
	case method == "get-zmq-uris":
		return in.uris(), nil
	case method == "recover" && in.actions.Recover != nil:
		in.actions.Recover()
		return nil, nil
	case method == "refresh":
		return nil, in.refresh(args)
	case method == "publish":
		return nil, in.publish(args)
	}
	return nil, &refusal{condition: conditionNoMethod}
}

// uris are the first endpoint of each kind.
func (in *Intake) uris() dict {
	uris := dict{}
	names := map[string]string{typePull: "publish-pull", typeSub: "publish-sub", typeRep: "command"}
	for _, endpoint := range in.bound {
		if name := names[endpoint.Socket]; uris[name] == nil {
			uris[name] = endpoint.URL
		}
	}
	return uris
}

func (in *Intake) refresh(args dict) error {
	cid, byID := args["cid"].([]byte)
	channel, byChannel := args["channel"].([]byte)
	switch {
	case byID && in.actions.Refresh == nil:
		return &refusal{conditionNoMethod, "refresh by cid is not supported yet; refresh a channel of the connection"}
	case byID && !in.actions.Refresh(string(cid)):
		return &refusal{condition: conditionNoItem}
	case byID:
		return nil
	case !byChannel || len(channel) == 0:
		return &refusal{conditionBadRequest, "refresh has a cid or a channel"}
	}
	return in.toBus(string(channel), []byte(refreshItem))
}

func (in *Intake) publish(args dict) error {
	items, err := readItems(args["items"])
	if err != nil {
		return &refusal{conditionBadRequest, err.Error()}
	}
	for i, item := range items {
		if err := in.taken(item.Channel, in.cluster.Publish(in.ctx, item)); err != nil {
			refused := err.(*refusal)
			refused.why = fmt.Sprintf("%s. %d of %d items were accepted before it.", refused.why, i, len(items))
			return refused
		}
		in.stats.items[typeRep].Inc()
	}
	return nil
}

// toBus publishes at once or not at all: who asks can ask again.
func (in *Intake) toBus(channel string, data []byte) error {
	return in.taken(channel, in.options.Bus.Publish(in.ctx, channel, data))
}

// taken makes a refusal of the bus's error.
func (in *Intake) taken(channel string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, pubsub.ErrChannelTooLong), errors.Is(err, pubsub.ErrItemTooLong), errors.Is(err, pubsub.ErrDenied),
		errors.Is(err, cluster.ErrReceipt):
		in.refuse(typeRep, refusedByBus, err)
		return &refusal{conditionBadRequest, fmt.Sprintf("Not published: %s", err)}
	}
	in.warn("zmq: the bus did not accept an item", "channel", channel, "error", err)
	return &refusal{conditionUnavailable, fmt.Sprintf("Not published: channel %.80q: the bus is busy or away", channel)}
}

// texts reads a list of bytes.
func texts(value any) ([]string, error) {
	list, ok := value.([]any)
	if !ok || len(list) > idsMax {
		return nil, &refusal{conditionBadRequest, fmt.Sprintf("conncheck has ids, a list of at most %d", idsMax)}
	}
	all := make([]string, len(list))
	for i, element := range list {
		text, ok := element.([]byte)
		if !ok {
			return nil, &refusal{conditionBadRequest, fmt.Sprintf("id %d is not bytes", i)}
		}
		all[i] = string(text)
	}
	return all, nil
}
