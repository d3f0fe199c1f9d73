// Package warm remembers which steps a node holds the results of.
//
// A [Ledger] is one small file for each node address, in a directory of the user's
// cache. It is a memory, not a truth: a node may have thrown results away since, or
// may have been given a new root. The first costs a wrong prediction and nothing
// else; the second is noticed by the id that a node keeps in its root.
//
// Steps are named by digests that cover their inputs and the content they copy, so
// that an edited file makes the steps that read it cold.
package warm

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/gofrs/flock"
	digest "github.com/opencontainers/go-digest"
)

// maxSteps bounds the file of a node: the steps not seen for longest go first.
const maxSteps = 50_000

// Ledger is a directory of files. The zero Ledger remembers nothing.
type Ledger struct {
	Dir string
}

// file is what is known of one node.
type file struct {
	Addr string `json:"addr"`
	// ID is the id of the node's worker, kept in its root.
	ID string `json:"id"`
	// Steps are the results held, with the time when each was last seen, in
	// seconds since 1970.
	Steps map[digest.Digest]int64 `json:"steps"`
}

// Holds returns the steps that the node at addr held when it was last used. With
// an id, a node that has another one by now holds nothing.
func (l Ledger) Holds(addr, id string) (map[digest.Digest]bool, error) {
	if l.Dir == "" {
		return nil, nil
	}
	f, err := l.read(addr)
	if err != nil {
		return nil, err
	}
	if id != "" && f.ID != id {
		return nil, nil
	}
	held := make(map[digest.Digest]bool, len(f.Steps))
	for d := range f.Steps {
		held[d] = true
	}
	return held, nil
}

// Add notes that the node holds these steps.
func (l Ledger) Add(addr, id string, steps []digest.Digest, now time.Time) (err error) {
	if l.Dir == "" || len(steps) == 0 {
		return nil
	}
	if err := os.MkdirAll(l.Dir, 0o755); err != nil {
		return fmt.Errorf("remember what %s holds: %w", addr, err)
	}
	lock := flock.New(l.path(addr) + ".lock")
	if err := lock.Lock(); err != nil {
		return fmt.Errorf("remember what %s holds: %w", addr, err)
	}
	defer func() { err = errors.Join(err, lock.Unlock()) }()
	f, err := l.read(addr)
	if err != nil {
		return err
	}
	if f.ID != id {
		f = file{}
	}
	f.Addr, f.ID = addr, id
	if f.Steps == nil {
		f.Steps = map[digest.Digest]int64{}
	}
	for _, d := range steps {
		f.Steps[d] = now.Unix()
	}
	f.trim()
	return l.write(addr, f)
}

// trim drops the oldest steps beyond the limit.
func (f *file) trim() {
	if len(f.Steps) <= maxSteps {
		return
	}
	times := slices.Sorted(maps.Values(f.Steps))
	oldest := times[len(times)-maxSteps]
	maps.DeleteFunc(f.Steps, func(_ digest.Digest, at int64) bool { return at < oldest })
}

func (l Ledger) path(addr string) string {
	sum := sha256.Sum256([]byte(addr))
	return filepath.Join(l.Dir, hex.EncodeToString(sum[:12])+".json")
}

// read returns what is known; a damaged file is as none: it is only a memory.
func (l Ledger) read(addr string) (file, error) {
	dt, err := os.ReadFile(l.path(addr))
	if errors.Is(err, fs.ErrNotExist) {
		return file{}, nil
	}
	if err != nil {
		return file{}, fmt.Errorf("read what %s holds: %w", addr, err)
	}
	var f file
	if json.Unmarshal(dt, &f) != nil || f.Addr != addr {
		return file{}, nil
	}
	return f, nil
}

func (l Ledger) write(addr string, f file) error {
	dt, err := json.Marshal(f)
	if err != nil {
		return fmt.Errorf("remember what %s holds: %w", addr, err)
	}
	tmp, err := os.CreateTemp(l.Dir, "*.tmp")
	if err != nil {
		return fmt.Errorf("remember what %s holds: %w", addr, err)
	}
	_, err = tmp.Write(dt)
	if err = errors.Join(err, tmp.Close()); err == nil {
		err = os.Rename(tmp.Name(), l.path(addr))
	}
	if err != nil {
		return fmt.Errorf("remember what %s holds: %w", addr, errors.Join(err, os.Remove(tmp.Name())))
	}
	return nil
}
