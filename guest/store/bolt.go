package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"
)

// boltShelf is a Shelf in a file, by bbolt: a database of one process, which
// survives that one's death at any moment.
type boltShelf struct{ db *bbolt.DB }

// boltBucket holds the keys: revision (8 bytes) and data.
var boltBucket = []byte("kv")

// lockWait is how long another process may take to let go of the file.
const lockWait = time.Second

// batchWait is how long a change waits for others to share its write to the disk.
const batchWait = time.Millisecond

// KVFileMax bounds the data of a store's file, in bytes, checked as it grows.
const KVFileMax = 16 << 30

// sweepKeys bounds how many keys one change looks at for what has ended.
const sweepKeys = 16

// OpenFile opens a shelf in a file, and makes the file if it is new.
func OpenFile(path string) (shelf Shelf, isNew bool, err error) {
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{Timeout: lockWait, NoFreelistSync: true, FreelistType: bbolt.FreelistMapType})
	if errors.Is(err, bolterrors.ErrTimeout) {
		err = errors.New("another process has it open: want a file for each, or the backend jetstream")
	}
	if err != nil {
		return nil, false, fmt.Errorf("file %q: %w", path, bare(err))
	}
	db.MaxBatchDelay = batchWait
	err = db.Update(func(tx *bbolt.Tx) error {
		isNew = tx.Bucket(boltBucket) == nil
		_, err := tx.CreateBucketIfNotExists(boltBucket)
		return err
	})
	if err != nil {
		db.Close()
		return nil, false, fmt.Errorf("file %q: %w", path, err)
	}
	return &boltShelf{db}, isNew, nil
}

// revisionOf is the revision and the data of what is stored.
func revisionOf(stored []byte) (uint64, []byte) {
	if len(stored) < 8 {
		return 0, nil
	}
	return binary.BigEndian.Uint64(stored), stored[8:]
}

func (b *boltShelf) Get(_ context.Context, key string) (data []byte, revision uint64, found bool, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		stored := tx.Bucket(boltBucket).Get([]byte(key))
		if stored == nil {
			return nil
		}
		revision, data = revisionOf(stored)
		data, found = bytes.Clone(data), true // the file is mapped; it may move
		return nil
	})
	if found && expired(kvExpires(data)) {
		return nil, 0, false, err
	}
	return data, revision, found, err
}

func (b *boltShelf) Put(ctx context.Context, key string, data []byte, _ time.Time) error {
	_, err := b.change(key, func(uint64) bool { return true }, data)
	return err
}

func (b *boltShelf) Swap(ctx context.Context, key string, data []byte, _ time.Time, revision uint64) (bool, error) {
	return b.change(key, func(is uint64) bool { return is == revision }, data)
}

func (b *boltShelf) Delete(_ context.Context, key string) (bool, error) {
	return b.change(key, func(is uint64) bool { return is != 0 }, nil)
}

// change stores data, or takes the key away if it is nil, if the revision is
// right. Changes of the same moment share one write to the disk.
func (b *boltShelf) change(key string, right func(revision uint64) bool, data []byte) (ok bool, err error) {
	err = b.db.Batch(func(tx *bbolt.Tx) error {
		bucket := tx.Bucket(boltBucket)
		is, old := revisionOf(bucket.Get([]byte(key)))
		if expired(kvExpires(old)) {
			is = 0
		}
		if ok = right(is); !ok {
			return nil
		}
		if data == nil {
			return bucket.Delete([]byte(key))
		}
		if tx.Size() > KVFileMax {
			return ErrFull
		}
		revision, err := bucket.NextSequence()
		if err != nil {
			return err
		}
		if err := sweep(bucket, []byte(key)); err != nil {
			return err
		}
		stored := binary.BigEndian.AppendUint64(make([]byte, 0, 8+len(data)), revision)
		return bucket.Put([]byte(key), append(stored, data...))
	})
	return ok && err == nil, err
}

// sweep takes away what has ended among the keys that follow one: each change
// pays for a few, and nothing stays for ever.
func sweep(bucket *bbolt.Bucket, from []byte) error {
	var ended [][]byte
	cursor := bucket.Cursor()
	key, stored := cursor.Seek(from)
	for range sweepKeys {
		if key == nil {
			break
		}
		if _, data := revisionOf(stored); expired(kvExpires(data)) {
			ended = append(ended, bytes.Clone(key))
		}
		key, stored = cursor.Next()
	}
	for _, key := range ended {
		if err := bucket.Delete(key); err != nil {
			return err
		}
	}
	return nil
}

func (b *boltShelf) Keys(_ context.Context, prefix, after string, limit int) (keys []string, err error) {
	err = b.db.View(func(tx *bbolt.Tx) error {
		cursor := tx.Bucket(boltBucket).Cursor()
		for key, stored := cursor.Seek([]byte(max(prefix, after))); key != nil && len(keys) < limit; key, stored = cursor.Next() {
			if !bytes.HasPrefix(key, []byte(prefix)) {
				if string(key) > prefix {
					break
				}
				continue
			}
			if _, data := revisionOf(stored); string(key) > after && !expired(kvExpires(data)) {
				keys = append(keys, string(key))
			}
		}
		return nil
	})
	return keys, err
}

func (b *boltShelf) Close() error { return b.db.Close() }
