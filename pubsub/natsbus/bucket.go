package natsbus

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/nats-io/nats.go"
	"github.com/nats-io/nats.go/jetstream"

	"github.com/gripway/gripway/pubsub"
)

// Buckets opens buckets of JetStream: keys and values that outlive this process,
// and that all nodes share. JetStream is part of the server at Options.URL, or of the
// one inside if it has Embedded.StoreDir. It may be used concurrently.
type Buckets struct {
	conn   *nats.Conn
	stream jetstream.JetStream
}

// ErrNoJetStream: the NATS server has none.
var ErrNoJetStream = errors.New("the NATS server has no JetStream")

// Buckets returns those of the bus's NATS, over a connection of their own, to be
// closed before the bus.
func (b *Bus) Buckets() (*Buckets, error) {
	conn, err := b.Connect()
	if err != nil {
		return nil, err
	}
	stream, err := jetstream.New(conn)
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("natsbus: %w", err)
	}
	return &Buckets{conn, stream}, nil
}

// Close ends the connection. Calls under way fail.
func (s *Buckets) Close() { s.conn.Close() }

// markerTTL is how long a bucket remembers that a key has ended or was deleted, for
// those who watch it.
const markerTTL = time.Hour

// openPause is how long to wait before a bucket is asked for again: the nodes of a
// cluster that starts have no leader yet.
const openPause = 250 * time.Millisecond

// openAttempt is how long an attempt may take: without a leader nobody answers.
const openAttempt = 3 * time.Second

// Open returns a bucket, and makes it if it is new: with that many replicas, which
// needs as many nodes. A bucket that is there is taken as it is; isNew tells that
// there never was anything in it. Until ctx ends it is tried again, unless there is no JetStream.
func (s *Buckets) Open(ctx context.Context, name string, replicas int) (bucket *Bucket, isNew bool, err error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, openAttempt)
		bucket, isNew, err = s.open(attempt, name, replicas)
		cancel()
		if err == nil {
			return bucket, isNew, nil
		}
		if errors.Is(err, nats.ErrNoResponders) || errors.Is(err, jetstream.ErrJetStreamNotEnabled) || errors.Is(err, jetstream.ErrJetStreamNotEnabledForAccount) {
			err = ErrNoJetStream
		}
		var refused *jetstream.APIError
		if errors.As(err, &refused) && refused.Code != 503 || errors.Is(err, ErrNoJetStream) || errors.Is(err, jetstream.ErrInvalidBucketName) || s.conn.IsClosed() {
			return nil, false, fmt.Errorf("bucket %q: %w", name, err)
		}
		select {
		case <-ctx.Done():
			return nil, false, fmt.Errorf("bucket %q: %w", name, err)
		case <-time.After(openPause):
		}
	}
}

func (s *Buckets) open(ctx context.Context, name string, replicas int) (bucket *Bucket, isNew bool, err error) {
	kv, err := s.stream.KeyValue(ctx, name)
	if errors.Is(err, jetstream.ErrBucketNotFound) {
		kv, err = s.stream.CreateKeyValue(ctx, jetstream.KeyValueConfig{
			Bucket: name, Description: "gripway", History: 1, Replicas: replicas, LimitMarkerTTL: markerTTL,
		})
		if errors.Is(err, jetstream.ErrBucketExists) { // another node was faster
			kv, err = s.stream.KeyValue(ctx, name)
		}
	}
	if err != nil {
		return nil, false, err
	}
	status, err := kv.Status(ctx)
	if err != nil {
		return nil, false, err
	}
	return &Bucket{buckets: s, kv: kv, name: name, ends: status.LimitMarkerTTL() > 0}, status.Values() == 0, nil
}

// Bucket is one bucket. Keys may be any bytes: in NATS they are base64, so that
// other programs find key k at $KV.BUCKET. and the unpadded URL alphabet's base64 of
// k. It may be used concurrently.
type Bucket struct {
	buckets *Buckets
	kv      jetstream.KeyValue
	name    string
	ends    bool // its values may end
}

func keyToken(key string) string { return base64.RawURLEncoding.EncodeToString([]byte(key)) }

// Get returns what is at a key now, and its revision.
func (b *Bucket) Get(ctx context.Context, key string) (data []byte, revision uint64, found bool, err error) {
	entry, err := b.kv.Get(ctx, keyToken(key))
	if errors.Is(err, jetstream.ErrKeyNotFound) { // deleted, too
		return nil, 0, false, nil
	}
	if err != nil {
		return nil, 0, false, b.wrap(err)
	}
	return entry.Value(), entry.Revision(), true, nil
}

// Put stores data, whatever is there. The server forgets it some time after expires,
// unless that is zero.
func (b *Bucket) Put(ctx context.Context, key string, data []byte, expires time.Time) error {
	return b.publish(ctx, key, data, b.ttl(expires))
}

// Swap is Put if the key's revision is the one that is given; 0: if there is none.
func (b *Bucket) Swap(ctx context.Context, key string, data []byte, expires time.Time, revision uint64) (ok bool, err error) {
	if revision == 0 {
		var opts []jetstream.KVCreateOpt
		if ttl := b.ttl(expires); ttl > 0 {
			opts = append(opts, jetstream.KeyTTL(ttl))
		}
		if err := b.fits(data); err != nil {
			return false, err
		}
		_, err = b.kv.Create(ctx, keyToken(key), data, opts...)
	} else {
		err = b.publish(ctx, key, data, b.ttl(expires), jetstream.WithExpectLastSequencePerSubject(revision))
	}
	if errors.Is(err, jetstream.ErrKeyExists) || wrongRevision(err) {
		return false, nil
	}
	return err == nil, b.wrap(err)
}

// Delete takes a key away.
func (b *Bucket) Delete(ctx context.Context, key string) (found bool, err error) {
	_, _, found, err = b.Get(ctx, key)
	if !found || err != nil {
		return false, err
	}
	var opts []jetstream.KVDeleteOpt
	if b.ends {
		opts = append(opts, jetstream.PurgeTTL(markerTTL))
	}
	return true, b.wrap(b.kv.Purge(ctx, keyToken(key), opts...))
}

// Each calls fn with every key there is, in any order.
func (b *Bucket) Each(ctx context.Context, fn func(key string)) error {
	keys, err := b.kv.ListKeys(ctx)
	if err != nil {
		return b.wrap(err)
	}
	defer keys.Stop()
	for token := range keys.Keys() {
		if key, err := base64.RawURLEncoding.DecodeString(token); err == nil { // else another program's
			fn(string(key))
		}
	}
	return b.wrap(ctx.Err())
}

// ttl is how long the server has to keep a value: full seconds, 0 for ever.
func (b *Bucket) ttl(expires time.Time) time.Duration {
	if expires.IsZero() || !b.ends {
		return 0
	}
	return max(time.Until(expires).Truncate(time.Second)+time.Second, time.Second)
}

func (b *Bucket) publish(ctx context.Context, key string, data []byte, ttl time.Duration, opts ...jetstream.PublishOpt) error {
	if err := b.fits(data); err != nil {
		return err
	}
	if ttl > 0 {
		opts = append(opts, jetstream.WithMsgTTL(ttl))
	}
	_, err := b.buckets.stream.PublishMsg(ctx, &nats.Msg{Subject: "$KV." + b.name + "." + keyToken(key), Data: data, Header: nats.Header{}}, opts...)
	return err
}

// headerRoom is what revision and ttl add to a message, in bytes.
const headerRoom = 256

// fits refuses what the server would, which says it less clearly.
func (b *Bucket) fits(data []byte) error {
	if most := b.buckets.conn.MaxPayload() - headerRoom; most > 0 && int64(len(data)) > most {
		return fmt.Errorf("%w: %d bytes, and NATS takes %d", pubsub.ErrItemTooLong, len(data), most)
	}
	return nil
}

func (b *Bucket) wrap(err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("bucket %q: %w", b.name, err)
}

// wrongRevision tells an answer that somebody else was faster.
func wrongRevision(err error) bool {
	var refused *jetstream.APIError
	return errors.As(err, &refused) &&
		(refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequence || refused.ErrorCode == jetstream.JSErrCodeStreamWrongLastSequenceConstant)
}
