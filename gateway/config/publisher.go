package config

import (
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/pelletier/go-toml/v2/unstable"

	"github.com/gripway/gripway/gateway/access"
	"github.com/gripway/gripway/grip"
)

// Publisher is one who may use the private API. It is plain data.
type Publisher struct {
	// Line is the publisher in one line, whatever way it was written; what is
	// secret is hidden.
	Line string
	// Where it was written: "--publisher", "gripway.toml:12: publisher".
	Where string

	Name     string
	Token    Secret
	JWTKey   Secret // a file: reference has its folder
	Iss      string
	JWKS     string // a URL, or a file with its folder
	User     string
	Password Secret
	Channels []string // patterns; nil = all, empty = none
	Rate     float64  // items a second; 0 = any
	Burst    int      // items; 0 = Rate, rounded up
}

// String is Line: a printed publisher must not reveal what Line hides.
func (p Publisher) String() string { return p.Line }

// GoString is Line.
func (p Publisher) GoString() string { return p.Line }

// MarshalText is Line.
func (p Publisher) MarshalText() ([]byte, error) { return []byte(p.Line), nil }

// publisherOptions are all options there are; none is refused.
var publisherOptions = map[string]bool{
	"name": false, "token": false, "jwt-key": false, "iss": false, "jwks": false, "user": false, "password": false,
	"channels": false, "rate": false, "burst": false,
}

// readPublisher decodes one element of the key publisher, and reports all that
// is wrong.
func readPublisher(v *value, dir string) (Publisher, []error) {
	var s section
	var wrong []error
	if v.kind == unstable.InlineTable {
		for _, f := range v.fields {
			_, mine := publisherOptions[f.key]
			switch {
			case !mine && findSetting(f.key) != nil:
				wrong = append(wrong, &optionError{f.line, f.key + " is no option of a publisher: the gateway's own keys stand before the first [[publisher]]"})
			case f.key == "channels" && f.value.kind == unstable.Array && len(f.value.items) == 0:
				s.options = append(s.options, option{name: f.key, bare: true, line: f.line})
			case f.value.kind == unstable.Bool:
				wrong = append(wrong, &optionError{f.line, "option " + f.key + ": want a text or a number, not " + f.value.text})
			default:
				if err := s.add(f, true); err != nil {
					wrong = append(wrong, &optionError{f.line, err.Error()})
				}
			}
		}
	} else {
		sections, err := parseLine(v.text)
		switch {
		case err != nil:
			return Publisher{}, []error{err}
		case len(sections) != 1:
			return Publisher{}, []error{errors.New("want a name and options by commas, without blanks, like app,token=…,channels=news.*")}
		}
		s = sections[0]
	}

	p := Publisher{Name: s.value, Line: formatLine([]section{s}, false)}
	said := make(map[string]bool)
	for _, o := range s.options {
		if said[o.name] && o.name != "channels" {
			wrong = append(wrong, &optionError{o.line, "option " + o.name + ": said twice"})
			continue
		}
		said[o.name] = true
		if err := p.readOption(o, dir); err != nil {
			wrong = append(wrong, &optionError{o.line, err.Error()})
		}
	}
	if len(wrong) > 0 {
		return p, wrong
	}
	live, err := p.access()
	if err == nil {
		err = live.Check()
	}
	if err == nil && p.JWKS != "" {
		if err = access.CheckFile(p.JWKS); err != nil {
			err = fmt.Errorf("jwks %q: %w", p.JWKS, bare(err))
		}
	}
	if all, several := err.(interface{ Unwrap() []error }); several {
		return p, all.Unwrap()
	} else if err != nil {
		return p, []error{err}
	}
	return p, nil
}

func (p *Publisher) readOption(o option, dir string) error {
	if _, known := publisherOptions[o.name]; !known {
		return unknownOption(o.name, publisherOptions, nil, "")
	}
	if o.name == "channels" {
		if p.Channels == nil {
			p.Channels = []string{}
		}
		if !o.bare {
			p.Channels = append(p.Channels, o.value)
		}
		return nil
	}
	if o.value == "" {
		return fmt.Errorf("option %s needs a value", o.name)
	}
	switch o.name {
	case "name":
		if p.Name != "" {
			return fmt.Errorf("name: it is %q already", p.Name)
		}
		p.Name = o.value
	case "token":
		p.Token = Secret(o.value)
	case "jwt-key":
		p.JWTKey = Secret(resolveKey(o.value, dir))
	case "iss":
		p.Iss = o.value
	case "jwks":
		p.JWKS = o.value
		if name := strings.TrimPrefix(o.value, "file:"); !strings.Contains(name, "://") {
			p.JWKS = resolveFile(name, dir)
		}
	case "user":
		p.User = o.value
	case "password":
		p.Password = Secret(o.value)
	case "rate":
		rate, err := strconv.ParseFloat(o.value, 64)
		if err != nil || rate <= 0 {
			return fmt.Errorf("rate %q: want items a second, like 100 or 0.5", o.value)
		}
		p.Rate = rate
	case "burst":
		burst, err := strconv.Atoi(o.value)
		if err != nil || burst < 1 {
			return fmt.Errorf("burst %q: want a number of items, like 100", o.value)
		}
		p.Burst = burst
	}
	return nil
}

// access is the publisher as the gateway knows it.
func (p *Publisher) access() (access.Publisher, error) {
	key, err := grip.ParseKey(p.JWTKey.Reveal(), "")
	if err != nil {
		return access.Publisher{}, fmt.Errorf("jwt-key: %w", err)
	}
	live := access.Publisher{
		Name: p.Name, Key: key, Iss: p.Iss, JWKS: p.JWKS, User: p.User, Password: p.Password.Reveal(),
		Channels: p.Channels, Rate: p.Rate, Burst: p.Burst,
	}
	if p.Token != "" {
		if !key.IsZero() {
			return live, errors.New("token and jwt-key: want one of them, or a publisher for each")
		}
		live.Tokens = []string{p.Token.Reveal()}
	}
	return live, nil
}

// publishKey is the publisher that a publish-key stands for.
func publishKey(name string, text Secret) (access.Publisher, error) {
	key, err := grip.ParseKey(text.Reveal(), "")
	switch {
	case err != nil:
		return access.Publisher{}, err
	case key.IsZero():
		return access.Publisher{}, errors.New("it is empty: want a key")
	}
	p := access.Publisher{Name: name, Key: key}
	if key.Alg() != "HS256" || strings.HasPrefix(text.Reveal(), "file:") {
		return p, nil // what is written there is no secret
	}
	tokens := []string{text.Reveal()}
	if encoded, ok := strings.CutPrefix(text.Reveal(), "base64:"); ok {
		// Libraries differ in whether they send it as it is written.
		plain, err := base64.RawStdEncoding.DecodeString(strings.NewReplacer("-", "+", "_", "/", "=", "").Replace(encoded))
		if err == nil {
			tokens = append(tokens, string(plain))
		}
	}
	for _, token := range tokens {
		if token != "" && !strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' }) {
			p.Tokens = append(p.Tokens, token)
		}
	}
	return p, nil
}

// Publishers are who may use the private API; none means anybody. What is wrong
// with one is Validate's to tell.
func (c *Config) Publishers() []access.Publisher {
	publishers, _ := c.publishers()
	return publishers
}

func (c *Config) publishers() (all []access.Publisher, problems Problems) {
	for i, text := range c.PublishKey {
		name := "publish-key"
		if i > 0 {
			name += "-" + strconv.Itoa(i+1)
		}
		p, err := publishKey(name, text)
		if err != nil {
			problems = append(problems, c.problem("publish-key", text.String(), err.Error()))
			continue
		}
		all = append(all, p)
	}
	for i := range c.Publisher {
		p, err := c.Publisher[i].access()
		if err != nil { // readPublisher said so
			continue
		}
		all = append(all, p)
	}
	return all, problems
}

func (c *Config) checkPublishers() Problems {
	all, problems := c.publishers()
	if len(problems) == 0 {
		if err := access.CheckAll(all); err != nil {
			problems = append(problems, Problem{What: err.Error()})
		}
	}
	if g := c.given["publish-key"]; g.layer != layerDefault && len(g.values) == 0 {
		// An empty variable of a shell, perhaps: nobody opens the door by that.
		problems = append(problems, c.problem("publish-key", "", "it is empty: want a key, or leave it out and nobody is asked for one"))
	}
	if len(all) == 0 && len(c.unread) == 0 && len(problems) == 0 {
		for _, of := range []struct {
			key string
			set bool
		}{{"publish-loopback-open", c.PublishLoopbackOpen}, {"metrics-auth", c.MetricsAuth}} {
			if of.set {
				problems = append(problems, c.problem(of.key, "", "there are no keys: want publish-key or publisher with it"))
			}
		}
	}
	return problems
}
