package targetlog

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"

	"github.com/dbake/dbake/cmd/dbake/internal/scene"
	"github.com/dbake/dbake/internal/printable"
	"github.com/dbake/dbake/runtime"
)

// The bounds of logs, in bytes: of the beginning and of the end of one, and of all text
// that waits to be written.
const (
	maxHead    = 12 << 20
	maxTail    = 4 << 20
	maxWaiting = 64 << 20
)

// Set holds the logs of a run. Its methods are called from one goroutine at a time.
type Set struct {
	dir   string
	lock  *flock.Flock
	scene *scene.Scene
	start time.Time
	files map[string]*file // by target
	// last is the last mark of each step. A node reports the beginning and the end of some
	// sources twice: for their digest, and for their contents.
	last map[*scene.Step]mark

	mu      sync.Mutex // guards what follows
	work    *sync.Cond // there is something to write, or no more will come
	queue   []*file    // with something to write
	waiting int        // bytes
	over    bool
	err     error // the first
	done    chan struct{}
}

// mark is how far a step was written.
type mark int

const (
	nothing mark = iota
	begun
	ended
)

// file is the log of one target.
type file struct {
	target, path string
	head         int    // bytes given to the writer
	tail         []byte // the end of what came after
	left         int    // bytes between them

	// guarded by the mutex of the set
	pending []byte
	queued  bool

	// of the writer
	made bool
}

// Open takes a directory for the logs of a run, and makes it if there is none. The set
// must be closed.
func Open(dir string) (*Set, error) {
	dir, lock, err := take(dir)
	if err != nil {
		return nil, fmt.Errorf("logs of targets: %w", err)
	}
	s := &Set{dir: dir, lock: lock, files: map[string]*file{}, done: make(chan struct{})}
	s.work = sync.NewCond(&s.mu)
	s.Begin(scene.Outlook{})
	go s.write()
	return s, nil
}

// Dir is where the logs are.
func (s *Set) Dir() string { return s.dir }

// Path returns the file of a target; "" when it has no log yet.
func (s *Set) Path(target string) string {
	if f := s.files[target]; f != nil {
		return f.path
	}
	return ""
}

// Begin reports that a run starts.
func (s *Set) Begin(o scene.Outlook) {
	s.scene, s.start, s.last = scene.NewBrief(o), time.Now(), map[*scene.Step]mark{}
	var names []string
	for _, t := range s.scene.Targets {
		names = append(names, t.Name)
	}
	for target, name := range fileNames(names) {
		s.files[target] = &file{target: target, path: filepath.Join(s.dir, name)}
	}
}

// Observe takes an event in. It waits for no disk.
func (s *Set) Observe(e runtime.Event) { s.apply(time.Since(s.start), e) }

func (s *Set) apply(at time.Duration, e runtime.Event) {
	news := len(s.scene.News)
	c := s.scene.Apply(at, e)
	for _, st := range c.Began {
		if s.last[st] != nothing {
			continue
		}
		s.last[st] = begun
		s.say(st.Targets, fmt.Sprintf("#%d %s %s\n", st.Number(), st.Node.Name, st.Name))
	}
	for _, p := range c.Printed {
		var b strings.Builder
		for _, line := range p.Lines {
			fmt.Fprintf(&b, "#%d %.3f %s\n", p.Step.Number(), max(0, at-p.Step.Began).Seconds(), line)
		}
		s.say(p.Step.Targets, b.String())
		s.last[p.Step] = begun
	}
	for _, st := range c.Ended {
		was := s.last[st]
		s.last[st] = nothing
		switch st.State {
		case scene.Cached:
			s.say(st.Targets, fmt.Sprintf("#%d %s %s\n#%[1]d CACHED\n", st.Number(), st.Node.Name, st.Name))
		case scene.Failed:
			s.say(st.Targets, fmt.Sprintf("#%d ERROR: %s\n", st.Number(), st.Err))
		case scene.Cancelled:
			s.say(st.Targets, fmt.Sprintf("#%d CANCELED\n", st.Number()))
		default:
			s.last[st] = ended
			if was != ended {
				s.say(st.Targets, fmt.Sprintf("#%d DONE %.1fs\n", st.Number(), st.RunTime(at).Seconds()))
			}
		}
	}
	switch e := e.(type) {
	case runtime.JobEvent:
		switch e.Stage {
		case "exported":
			s.say([]string{e.Target}, fmt.Sprintf("%s was built on %s\n", e.Job, e.Node))
		case "failed", "skipped":
			s.say([]string{e.Target}, fmt.Sprintf("%s %s\n", e.Job, map[string]string{"failed": "failed", "skipped": "was skipped: what it needs failed"}[e.Stage]))
		}
	case runtime.RetryEvent:
		s.say(e.Targets, fmt.Sprintf("%s attempt %d of %d failed with exit code %s, attempt %d follows: %s\n", e.Node, e.Attempt, e.Limit, e.ExitCode, e.Attempt+1, printable.Line(e.Step)))
	case runtime.MoveEvent:
		for _, n := range s.scene.News[min(news, len(s.scene.News)):] {
			s.say(e.Targets, fmt.Sprintf("%s %s\n", n.Node, n.Text))
		}
	}
}

// say adds text to the logs of targets.
func (s *Set) say(targets []string, text string) {
	for _, target := range targets {
		f := s.files[target]
		if f == nil {
			taken := map[string]bool{}
			for _, other := range s.files {
				taken[strings.ToLower(strings.TrimSuffix(filepath.Base(other.path), suffix))] = true
			}
			f = &file{target: target, path: filepath.Join(s.dir, fileName(target, taken))}
			s.files[target] = f
		}
		if f.head < maxHead && s.put(f, text) {
			f.head += len(text)
			continue
		}
		f.head = maxHead // from here on only the end counts
		f.tail = append(f.tail, text...)
		if over := len(f.tail) - maxTail; over > maxTail {
			f.left += over
			f.tail = append(f.tail[:0], f.tail[over:]...)
		}
	}
}

// put gives text to the writer, unless too much waits already.
func (s *Set) put(f *file, text string) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.waiting+len(text) > maxWaiting {
		return false
	}
	s.waiting += len(text)
	f.pending = append(f.pending, text...)
	if !f.queued {
		f.queued = true
		s.queue = append(s.queue, f)
	}
	s.work.Signal()
	return true
}

// write is the goroutine that writes.
func (s *Set) write() {
	defer close(s.done)
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for len(s.queue) == 0 && !s.over {
			s.work.Wait()
		}
		if len(s.queue) == 0 {
			return
		}
		f := s.queue[0]
		s.queue = s.queue[1:]
		data := f.pending
		f.pending, f.queued = nil, false
		s.mu.Unlock()
		err := f.append(data)
		s.mu.Lock()
		s.waiting -= len(data)
		if s.err == nil {
			s.err = err
		}
	}
}

// append writes to the end of the file. The first time it puts a new one in the place of
// that of an earlier run.
func (f *file) append(data []byte) (err error) {
	flags := os.O_WRONLY | os.O_APPEND
	if !f.made {
		if info, err := os.Lstat(f.path); err == nil && !info.Mode().IsRegular() && info.Mode()&fs.ModeSymlink == 0 {
			return fmt.Errorf("%s is not a regular file", f.path)
		}
		if err := os.Remove(f.path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		flags |= os.O_CREATE | os.O_EXCL
	}
	w, err := os.OpenFile(f.path, flags, 0o644)
	if err != nil {
		return err
	}
	f.made = true
	_, err = w.Write(data)
	return errors.Join(err, w.Close())
}

// patience bounds the wait for the disk at the end.
const patience = 5 * time.Second

// errStuck reports that the disk did not take the logs in time.
var errStuck = errors.New("the disk takes too long")

// Close writes the rest and gives the directory back. An error means that logs are
// incomplete.
func (s *Set) Close() error {
	for _, f := range s.files {
		if len(f.tail) == 0 {
			continue
		}
		if over := len(f.tail) - maxTail; over > 0 {
			f.left += over
			f.tail = f.tail[over:]
		}
		if f.left > 0 {
			f.tail = append(fmt.Appendf(nil, "\n... %d bytes left out ...\n", f.left), f.tail...)
		}
		s.mu.Lock()
		f.pending = append(f.pending, f.tail...)
		if !f.queued {
			f.queued = true
			s.queue = append(s.queue, f)
		}
		s.mu.Unlock()
	}
	s.mu.Lock()
	s.over = true
	s.work.Signal()
	s.mu.Unlock()
	late := time.NewTimer(patience)
	defer late.Stop()
	select {
	case <-s.done:
	case <-late.C:
		return fmt.Errorf("logs of targets in %s are not complete: %w", s.dir, errStuck) // the writer ends with the process
	}
	if err := s.lock.Unlock(); err != nil && s.err == nil {
		s.err = err
	}
	if s.err != nil {
		return fmt.Errorf("logs of targets in %s are not complete: %w", s.dir, s.err)
	}
	return nil
}
