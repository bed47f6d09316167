package config

import (
	"bufio"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/gripway/gripway/grip"
)

// gripURLDefault is the private API of a gateway on this machine.
const gripURLDefault = "http://localhost:5561"

// lineBytesMax is how long a line from standard input may be when each is
// published: what fits a publish request by default.
const lineBytesMax = 1_000_000

// Gateway says which gateway a command speaks to, and as whom.
type Gateway struct {
	Spec   URL    `name:"spec" placeholder:"GRIP_URL" help:"The gateway's private API, in any form of GRIP_URL, which is used if this is absent. Without either: http://localhost:5561."`
	User   Secret `name:"user" short:"u" placeholder:"USER:PASSWORD" help:"Authenticate with a name and password."`
	Bearer Secret `name:"bearer" short:"B" placeholder:"TOKEN" help:"Authenticate with a token."`
}

// PublishCommand publishes one item, or one for each line of standard input.
// Its options are those of pushpin-publish.
type PublishCommand struct {
	Channel string  `arg:"" name:"channel" help:"Channel to publish to."`
	Content *string `arg:"" optional:"" name:"content" help:"What held responses, streams and WebSockets get; @FILE takes it from a file, - publishes every line of standard input."`

	ID     string        `name:"id" placeholder:"ID" help:"Id of the item; within a minute, the second of one id is dropped."`
	PrevID string        `name:"prev-id" placeholder:"ID" help:"Id of the item before it."`
	Sender string        `name:"sender" placeholder:"NAME" help:"Who sends it: subscribers that are this user and filter skip-self are left out. Short for -M sender=NAME."`
	Code   int           `name:"code" placeholder:"STATUS" default:"200" help:"Status of held responses."`
	Header []string      `name:"header" short:"H" sep:"none" placeholder:"NAME: VALUE" help:"Header of held responses; may be repeated."`
	Meta   []string      `name:"meta" short:"M" sep:"none" placeholder:"NAME=VALUE" help:"Variable for filters; may be repeated."`
	Hint   bool          `name:"hint" help:"Have the gateway ask the origin again, instead of sending content."`
	Close  bool          `name:"close" help:"End streams and WebSockets, instead of sending content."`
	Patch  bool          `name:"patch" help:"The content is a JSON patch (RFC 6902) for the held response."`
	Also   []string      `name:"also" sep:"none" placeholder:"CHANNEL" help:"Another channel to publish the same to; may be repeated."`
	One    bool          `name:"one" help:"Deliver to one of those who follow the channel, instead of all."`
	Wait   time.Duration `name:"wait" placeholder:"TIME" help:"Wait so long, at most a minute, to be told what became of it, as a line of JSON."`
	NoSeq  bool          `name:"no-seq" help:"Deliver at once, without waiting for prev-id."`
	NoEOL  bool          `name:"no-eol" help:"Add no newline to what HTTP clients get."`

	Gateway `embed:""`
}

// CloseCommand closes clients on all nodes.
type CloseCommand struct {
	Connection string `name:"connection" placeholder:"ID" help:"The connection of this id: a WebSocket's Connection-Id, or the id of a held response."`
	ForUser    string `name:"for" placeholder:"USER" help:"All connections whose meta 'user' is this."`
	Channel    string `name:"channel" placeholder:"CHANNEL" help:"All that follow this channel."`
	Code       int    `name:"code" placeholder:"CODE" help:"Code for WebSockets; 1000 without it."`
	Reason     string `name:"reason" placeholder:"TEXT" help:"Reason for WebSockets."`

	Gateway `embed:""`
}

// SubscribeCommand prints what is published to channels.
type SubscribeCommand struct {
	Channels []string `arg:"" name:"channel" help:"Channels to listen to."`

	Gateway `embed:""`
}

func (g *Gateway) fill(environ []string) {
	for _, variable := range environ {
		if text, ok := strings.CutPrefix(variable, "GRIP_URL="); ok && g.Spec == "" {
			g.Spec = URL(text)
		}
	}
	if g.Spec == "" {
		g.Spec = gripURLDefault
	}
}

// GripURL is the gateway's address with the credentials in it, in a form that
// grip.NewPublisher reads. As the address, it is not to be printed.
func (g *Gateway) GripURL() (string, error) {
	parsed, err := url.Parse(g.Spec.Reveal())
	if err != nil {
		return "", fmt.Errorf("spec %q: want a URL, like %s", g.Spec, gripURLDefault)
	}
	switch {
	case parsed.Scheme == "http", parsed.Scheme == "https":
	case parsed.Scheme == "tcp", parsed.Scheme == "ipc":
		return "", fmt.Errorf("spec %q: ZeroMQ is not spoken here: want http:// or https://", g.Spec)
	default:
		return "", fmt.Errorf("spec %q: want http:// or https://, like %s", g.Spec, gripURLDefault)
	}
	if parsed.Hostname() == "" {
		return "", fmt.Errorf("spec %q: no host: want a URL like %s", g.Spec, gripURLDefault)
	}
	if g.User == "" && g.Bearer == "" {
		return g.Spec.Reveal(), nil
	}
	switch {
	case g.User != "" && g.Bearer != "":
		return "", errors.New("--user and --bearer: want one of them")
	case parsed.Scheme == "http" && !loopback(parsed.Hostname()):
		return "", fmt.Errorf("spec %q: --user and --bearer would be readable on the way: want https://", g.Spec)
	case g.User != "":
		name, password, _ := strings.Cut(g.User.Reveal(), ":")
		parsed.User = url.UserPassword(name, password)
	default:
		query := parsed.Query()
		if query.Has("iss") || query.Has("key") {
			return "", errors.New("--bearer: the spec has a key already: want one of them")
		}
		parsed.User = nil
		query.Set("key", g.Bearer.Reveal())
		parsed.RawQuery = query.Encode()
	}
	return parsed.String(), nil
}

func loopback(host string) bool {
	ip := net.ParseIP(host)
	return host == "localhost" || ip != nil && ip.IsLoopback()
}

// Items calls publish with each item that the command stands for: one, or with
// the content "-" one for each line of stdin as it comes. It ends at the first
// error, its own or that of publish.
func (c *PublishCommand) Items(stdin io.Reader, publish func(*grip.Item) error) error {
	item, err := c.item()
	if err != nil {
		return err
	}
	switch {
	case c.Hint || c.Close:
		if c.Content != nil {
			return errors.New("content: --hint and --close send none: leave it out")
		}
		return publish(item)
	case c.Content == nil:
		return errors.New("no content: want a text, @FILE, or - for the lines of standard input")
	case *c.Content == "-":
		if c.ID != "" || c.PrevID != "" {
			return errors.New("--id and --prev-id: every line would have the same, and all but the first be dropped; want them without -")
		}
		return c.lines(stdin, publish)
	}
	text, eol := []byte(*c.Content), !c.NoEOL
	if name, ok := strings.CutPrefix(*c.Content, "@"); ok {
		eol = false // a file is what it is, as in pushpin-publish
		if text, err = os.ReadFile(name); err != nil {
			return fmt.Errorf("content %q: the file cannot be read: %w", *c.Content, bare(err))
		}
	}
	if item, err = c.with(item, text, eol); err != nil {
		return err
	}
	return publish(item)
}

func (c *PublishCommand) lines(stdin io.Reader, publish func(*grip.Item) error) error {
	scanner := bufio.NewScanner(stdin)
	scanner.Buffer(nil, lineBytesMax)
	for number := 1; scanner.Scan(); number++ {
		item, err := c.item()
		if err == nil {
			item, err = c.with(item, []byte(scanner.Text()), !c.NoEOL)
		}
		if err == nil {
			err = publish(item)
		}
		if err != nil {
			return fmt.Errorf("line %d: %w", number, err)
		}
	}
	if errors.Is(scanner.Err(), bufio.ErrTooLong) {
		return fmt.Errorf("standard input: a line is longer than %d bytes", lineBytesMax)
	}
	return scanner.Err()
}

// item is what does not depend on the content.
func (c *PublishCommand) item() (*grip.Item, error) {
	switch {
	case len(c.Also) > grip.ItemChannelsMax:
		return nil, fmt.Errorf("--also: %d channels, and at most %d can be", len(c.Also), grip.ItemChannelsMax)
	case c.One && (c.Hint || c.Close || c.PrevID != ""):
		return nil, errors.New("--one: what is delivered to one has neither --hint, --close nor --prev-id")
	case c.Wait < 0 || c.Wait > time.Minute:
		return nil, fmt.Errorf("--wait %v: want a time up to a minute, like 2s", c.Wait)
	}
	item := &grip.Item{Channel: c.Channel, Channels: c.Also, One: c.One, ID: c.ID, PrevID: c.PrevID, NoSeq: c.NoSeq}
	if c.Sender != "" {
		item.Meta = map[string]string{"sender": c.Sender}
	}
	for _, meta := range c.Meta {
		name, text, ok := strings.Cut(meta, "=")
		if !ok || name == "" {
			return nil, fmt.Errorf("--meta %q: want NAME=VALUE", meta)
		}
		if item.Meta == nil {
			item.Meta = make(map[string]string)
		}
		item.Meta[name] = strings.TrimSpace(text)
	}
	switch {
	case c.Hint && c.Close:
		return nil, errors.New("--hint and --close: want one of them")
	case c.Hint:
		item.Response = &grip.ResponseItem{Action: grip.ActionHint}
		item.Stream = &grip.StreamItem{Action: grip.ActionHint}
	case c.Close:
		item.Stream = &grip.StreamItem{Action: grip.ActionClose}
		item.Message = &grip.MessageItem{Action: grip.ActionClose}
	}
	return item, nil
}

// with adds the content in each format. text belongs to the item from then on.
func (c *PublishCommand) with(item *grip.Item, text []byte, eol bool) (*grip.Item, error) {
	if c.Code < 0 || c.Code > 999 {
		return nil, fmt.Errorf("--code %d: want a number from 0 to 999", c.Code)
	}
	item.Response = &grip.ResponseItem{Code: c.Code}
	for _, header := range c.Header {
		name, value, ok := strings.Cut(header, ":")
		if !ok || name == "" {
			return nil, fmt.Errorf("--header %q: want NAME: VALUE", header)
		}
		if item.Response.Header == nil {
			item.Response.Header = make(http.Header)
		}
		item.Response.Header.Add(name, strings.TrimSpace(value))
	}
	if c.Patch {
		var operations []json.RawMessage
		if err := json.Unmarshal(text, &operations); err != nil || operations == nil {
			return nil, errors.New("--patch: the content must be a JSON array of operations, like [{\"op\":\"replace\",\"path\":\"/a\",\"value\":1}]")
		}
		item.Response.Patch = text
		return item, nil
	}
	item.Message = &grip.MessageItem{Content: text}
	if !utf8.Valid(text) {
		item.Message.Type = grip.Binary
	}
	if eol {
		text = append(text[:len(text):len(text)], '\n')
	}
	item.Response.Body = text
	item.Stream = &grip.StreamItem{Content: text}
	return item, nil
}
