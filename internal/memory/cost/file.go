package cost

import (
	"bytes"
	"cmp"
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/gofrs/flock"
	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/dbake/dbake/internal/localfile"
)

// The layout of the file: bucket "meta" with "format", bucket "steps" from key to
// record, bucket "machines" from node to machine.
var (
	metaBucket     = []byte("meta")
	stepsBucket    = []byte("steps")
	machinesBucket = []byte("machines")
	formatKey      = []byte("format")
	formatValue    = []byte("dbake-history/1")
)

// errDamaged reports that a history cannot be read and should be moved aside.
var errDamaged = errors.New("the history is damaged")

// load reads the file and the samples left beside it.
func (s *Store) load() error {
	steps, skipped, err := s.read()
	if errors.Is(err, errDamaged) {
		_, err = s.setAside(func() error {
			var err error
			steps, skipped, err = s.read()
			return err
		})
	}
	if err != nil {
		return err
	}
	if skipped > 0 {
		s.notes = append(s.notes, fmt.Sprintf("history %s: %d records of another version were passed over", s.path, skipped))
	}
	if steps != nil {
		s.steps = steps
	}
	for _, f := range s.leftBeside() {
		// One that cannot be read now may be gone already, taken in by another
		// process; Flush looks again.
		if more, machines, err := readLines(f); err == nil {
			for node, m := range machines {
				addMachine(s.machines, node, m)
			}
			for k, r := range more {
				add(s.steps, k, r)
			}
			bound(s.steps)
		}
	}
	return nil
}

// bound drops the steps that ran longest ago when there are far more than a history
// keeps, so that a file of any size takes bounded memory.
func bound(steps map[string]*record) {
	if len(steps) <= 4*maxSteps {
		return
	}
	keys := slices.SortedFunc(maps.Keys(steps), func(a, b string) int {
		return cmp.Or(steps[b].last().Compare(steps[a].last()), cmp.Compare(a, b))
	})
	for _, k := range keys[maxSteps:] {
		delete(steps, k)
	}
}

// read returns the records of the file, none when there is no file, and how many
// could not be read.
func (s *Store) read() (map[string]*record, int, error) {
	path := s.path
	steps := map[string]*record{}
	info, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return steps, 0, nil
	case err != nil:
		return nil, 0, err
	case !info.Mode().IsRegular():
		return nil, 0, fmt.Errorf("%w: not a regular file", ErrForeign)
	case info.Size() == 0:
		return steps, 0, nil
	}
	skipped := 0
	err = s.withDB(&bolt.Options{ReadOnly: true, Timeout: s.options.Timeout}, func(db *bolt.DB) error {
		return db.View(func(tx *bolt.Tx) error {
			if err := checkFormat(tx); err != nil {
				return err
			}
			if b := tx.Bucket(machinesBucket); b != nil {
				if err := b.ForEach(func(k, v []byte) error {
					if m, ok := decodeMachine(v); ok {
						addMachine(s.machines, string(k), m)
					}
					return nil
				}); err != nil {
					return err
				}
			}
			b := tx.Bucket(stepsBucket)
			if b == nil {
				return nil
			}
			return b.ForEach(func(k, v []byte) error {
				r, err := decode(v)
				if err != nil {
					skipped++
					return nil
				}
				steps[string(k)] = r
				bound(steps)
				return nil
			})
		})
	})
	if err != nil {
		return nil, 0, err
	}
	return steps, skipped, nil
}

// checkFormat fails unless the database is a history of this version or empty.
func checkFormat(tx *bolt.Tx) error {
	meta := tx.Bucket(metaBucket)
	if meta == nil {
		if k, _ := tx.Cursor().First(); k != nil {
			return ErrForeign
		}
		return nil
	}
	if got := meta.Get(formatKey); !bytes.Equal(got, formatValue) {
		return fmt.Errorf("%w: %q", ErrForeign, clip(string(got)))
	}
	return nil
}

// withDB opens the database for f and says what errors mean. A damaged
// database can make bbolt panic, or fault where the file is shorter than it says;
// the file, and with it the lock, is closed then, too.
func (s *Store) withDB(o *bolt.Options, f func(*bolt.DB) error) (err error) {
	var file *os.File
	o.OpenFile = func(name string, flag int, mode fs.FileMode) (*os.File, error) {
		var err error
		file, err = os.OpenFile(name, flag, mode)
		return file, err
	}
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			if file != nil {
				unlock(file)
				_ = file.Close()
			}
			err = fmt.Errorf("%w: %v", errDamaged, r)
		}
	}()
	return s.explain(openAnd(s.path, o, f))
}

func openAnd(path string, o *bolt.Options, f func(*bolt.DB) error) error {
	db, err := bolt.Open(path, 0o600, o)
	if err != nil {
		return err
	}
	// Not deferred: after a panic the database may hold locks that Close waits for.
	return errors.Join(f(db), db.Close())
}

// explain turns an error of the database into one of ours.
func (s *Store) explain(err error) error {
	switch {
	case err == nil, errors.Is(err, ErrForeign), errors.Is(err, errDamaged):
		return err
	case errors.Is(err, bolterrors.ErrTimeout):
		return ErrLocked
	case errors.Is(err, fs.ErrPermission), errors.Is(err, fs.ErrNotExist):
		return err
	case errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT), errors.Is(err, syscall.EROFS):
		return err
	case !isDatabase(s.path):
		if s.options.Own {
			return fmt.Errorf("%w: %w", errDamaged, err)
		}
		return fmt.Errorf("%w: %w", ErrForeign, err)
	case errors.Is(err, bolterrors.ErrInvalid), errors.Is(err, bolterrors.ErrChecksum),
		errors.Is(err, bolterrors.ErrVersionMismatch), errors.Is(err, bolterrors.ErrInvalidMapping),
		errors.Is(err, bolterrors.ErrIncompatibleValue), errors.Is(err, bolterrors.ErrBucketNotFound),
		errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return fmt.Errorf("%w: %w", errDamaged, err)
	case strings.Contains(err.Error(), "file size too small"):
		return fmt.Errorf("%w: %w", errDamaged, err)
	}
	return err
}

// isDatabase reports whether the file begins like a database: a user who names a
// file of another kind must get it back untouched.
func isDatabase(path string) bool {
	f, err := os.Open(path)
	if err != nil {
		return false
	}
	defer f.Close()
	const magic = 0xED0CDAED
	head := make([]byte, 3*16384)
	n, _ := io.ReadFull(f, head)
	// The first two pages are meta pages, with the magic after a header of 16 bytes;
	// the page size is that of the machine that made the file.
	for _, page := range []int{0, 4096, 8192, 16384} {
		for _, order := range []binary.ByteOrder{binary.LittleEndian, binary.BigEndian} {
			if page+20 <= n && order.Uint32(head[page+16:]) == magic {
				return true
			}
		}
	}
	return false
}

// lockInterval is the time between two tries to get a lock.
const lockInterval = 10 * time.Millisecond

// setAside moves a damaged file aside, unless it turns out to be in order when try is
// called again: of several processes that find it damaged one moves it, and the
// others find what that one made of it. moved says which it was; err is that of try.
func (s *Store) setAside(try func() error) (moved bool, err error) {
	if s.options.ReadOnly {
		s.notes = append(s.notes, fmt.Sprintf("history %s is damaged: nothing is taken from it", s.path))
		return false, nil
	}
	lock := flock.New(s.path + ".lock")
	ctx, stop := context.WithTimeoutCause(context.Background(), s.options.Timeout, ErrLocked)
	defer stop()
	if _, err := lock.TryLockContext(ctx, lockInterval); err != nil {
		return false, cmp.Or(context.Cause(ctx), err)
	}
	defer os.Remove(s.path + ".lock")
	defer func() { _ = lock.Unlock() }()
	damage := try()
	if !errors.Is(damage, errDamaged) {
		return false, damage
	}
	aside := s.path + ".damaged"
	for i := 2; ; i++ {
		if _, err := os.Lstat(aside); errors.Is(err, fs.ErrNotExist) {
			break
		}
		aside = fmt.Sprintf("%s.damaged%d", s.path, i)
	}
	if err := os.Rename(s.path, aside); err != nil {
		return false, errors.Join(damage, err)
	}
	s.notes = append(s.notes, fmt.Sprintf("history %s: %v; moved to %s, a new one begins", s.path, damage, aside))
	return true, nil
}

// Flush merges what was recorded and imported into the file. When the file is locked
// for too long, the samples go into a file beside it and are not lost.
func (s *Store) Flush() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.path == InMemory || s.options.ReadOnly || len(s.pending) == 0 && len(s.pendingMachines) == 0 {
		return nil
	}
	err := s.write(s.pending)
	if errors.Is(err, errDamaged) {
		var moved bool
		moved, err = s.setAside(func() error { return s.write(s.pending) })
		if moved {
			// It could be read, or some of it: that is in memory, and is kept.
			err = s.write(s.steps)
		}
	}
	if errors.Is(err, ErrLocked) {
		err = s.writeBeside()
	}
	if err != nil {
		return fmt.Errorf("write history %s: %w", s.path, err)
	}
	s.pending, s.pendingMachines = map[string]*record{}, map[string]Machine{}
	return nil
}

func (s *Store) write(records map[string]*record) error {
	if err := os.MkdirAll(filepath.Dir(s.path), 0o700); err != nil {
		return err
	}
	_, err := os.Stat(s.path)
	begun := errors.Is(err, fs.ErrNotExist)
	err = s.withDB(&bolt.Options{Timeout: s.options.Timeout}, func(db *bolt.DB) error {
		// Read with the lock held: nobody else takes these in or removes them.
		beside := s.leftBeside()
		taken := beside[:0]
		more, machines := map[string]*record{}, maps.Clone(s.pendingMachines)
		for _, f := range beside {
			rs, ms, err := readLines(f)
			if err != nil {
				continue // being written; the next one takes it in
			}
			for node, m := range ms {
				addMachine(machines, node, m)
			}
			taken = append(taken, f)
			for k, r := range rs {
				add(more, k, r)
			}
			bound(more)
		}
		for k, r := range records {
			add(more, k, r)
		}
		if err := db.Update(func(tx *bolt.Tx) error { return update(tx, more, machines) }); err != nil {
			return err
		}
		for _, f := range taken {
			if err := os.Remove(f); err != nil {
				return err
			}
		}
		return nil
	})
	if err != nil && begun && !errors.Is(err, ErrLocked) && !isDatabase(s.path) {
		// The disk is full: half a database would be of use to nobody.
		_ = os.Remove(s.path)
	}
	return err
}

// update merges records into the database and drops the oldest beyond the bound.
func update(tx *bolt.Tx, more map[string]*record, machines map[string]Machine) error {
	if err := checkFormat(tx); err != nil {
		return err
	}
	meta, err := tx.CreateBucketIfNotExists(metaBucket)
	if err != nil {
		return err
	}
	if err := meta.Put(formatKey, formatValue); err != nil {
		return err
	}
	if err := updateMachines(tx, machines); err != nil {
		return err
	}
	b, err := tx.CreateBucketIfNotExists(stepsBucket)
	if err != nil {
		return err
	}
	for _, k := range slices.Sorted(maps.Keys(more)) {
		r := more[k].clone()
		if old, err := decode(b.Get([]byte(k))); err == nil {
			old.merge(r)
			r = old
		}
		if err := b.Put([]byte(k), r.encode()); err != nil {
			return err
		}
	}
	return prune(b, maxSteps)
}

// updateMachines merges machines into the database and drops the oldest beyond the
// bound.
func updateMachines(tx *bolt.Tx, machines map[string]Machine) error {
	if len(machines) == 0 {
		return nil
	}
	b, err := tx.CreateBucketIfNotExists(machinesBucket)
	if err != nil {
		return err
	}
	all := map[string]Machine{}
	if err := b.ForEach(func(k, v []byte) error {
		if m, ok := decodeMachine(v); ok {
			all[string(k)] = m
		}
		return nil
	}); err != nil {
		return err
	}
	for node, m := range machines {
		if old, ok := all[node]; ok && m.When.Before(old.When) {
			continue
		}
		all[node] = m
		if err := b.Put([]byte(node), encodeMachine(m)); err != nil {
			return err
		}
	}
	for _, node := range oldest(all)[:max(0, len(all)-maxMachines)] {
		if err := b.Delete([]byte(node)); err != nil {
			return err
		}
	}
	return nil
}

// prune keeps the steps that ran last.
func prune(b *bolt.Bucket, keep int) error {
	type aged struct {
		key  string
		last time.Time
	}
	var all []aged
	if err := b.ForEach(func(k, v []byte) error {
		if r, err := decode(v); err == nil {
			all = append(all, aged{string(k), r.last()})
		}
		return nil
	}); err != nil {
		return err
	}
	if len(all) <= keep {
		return nil
	}
	slices.SortFunc(all, func(a, b aged) int {
		return cmp.Or(a.last.Compare(b.last), cmp.Compare(a.key, b.key))
	})
	// A tenth more than needed, so that not every run sorts all.
	for _, x := range all[:len(all)-keep+keep/10] {
		if err := b.Delete([]byte(x.key)); err != nil {
			return err
		}
	}
	return nil
}

const besideSuffix = ".pending.jsonl"

// leftBeside returns the files of samples that could not be written to the history.
func (s *Store) leftBeside() []string {
	dir, base := filepath.Split(s.path)
	entries, err := os.ReadDir(cmp.Or(dir, "."))
	if err != nil {
		return nil
	}
	var out []string
	for _, e := range entries {
		if n := e.Name(); strings.HasPrefix(n, base+".") && strings.HasSuffix(n, besideSuffix) && e.Type().IsRegular() {
			out = append(out, filepath.Join(dir, n))
		}
	}
	return out
}

// writeBeside writes what is pending into a file of its own.
func (s *Store) writeBeside() error {
	var b bytes.Buffer
	if err := writeLines(&b, s.pending, s.pendingMachines); err != nil {
		return err
	}
	name := fmt.Sprintf("%s.%s%s", s.path, rand.Text(), besideSuffix)
	if err := localfile.Replace(name, b.Bytes(), 0o600); err != nil {
		return err
	}
	s.notes = append(s.notes, fmt.Sprintf("history %s is in use: what was measured is in %s and joins it later", s.path, name))
	return nil
}

func readLines(path string) (map[string]*record, map[string]Machine, error) {
	f, err := os.OpenFile(path, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		return nil, nil, err
	}
	defer f.Close()
	return parseLines(f)
}
