package engine

import (
	"errors"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/dbake/dbake/internal/cost"
	"github.com/dbake/dbake/internal/filesum"
	"github.com/dbake/dbake/internal/warm"
)

// What dbake remembers from run to run is a help and never needed: whatever is wrong
// with it is a warning.

// Memory is what is remembered from run to run, below the user's cache directory.
type Memory struct {
	base string // "" when there is no such directory
	warn func(string)

	mu        sync.Mutex
	forgotten map[string]bool // causes for which something was not; guarded by mu
}

// NewMemory returns the memory of a user, who is told by warn what is wrong with it.
//
// A directory whose name is not absolute counts as none: it would be another one in
// every project.
func NewMemory(env map[string]string, warn func(string)) *Memory {
	m := &Memory{base: env["XDG_CACHE_HOME"], warn: warn}
	if !filepath.IsAbs(m.base) && filepath.IsAbs(env["HOME"]) {
		m.base = filepath.Join(env["HOME"], ".cache")
	}
	if !filepath.IsAbs(m.base) {
		m.base = ""
	}
	return m
}

// Dir returns a directory of the memory, "" when nothing is kept.
func (m *Memory) Dir(name string) string {
	if m.base == "" {
		return ""
	}
	return filepath.Join(m.base, "dbake", name)
}

// forgets says why something could not be remembered: each cause once, as a full
// disk is met by all. It may be called from several goroutines.
func (m *Memory) forgets(err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	cause := err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) {
		cause = errno.Error()
	}
	if m.forgotten[cause] {
		return
	}
	if m.forgotten == nil {
		m.forgotten = map[string]bool{}
	}
	m.forgotten[cause] = true
	m.warn(err.Error() + "; the build goes on without it")
}

// ledger is where it is remembered what nodes hold.
func (m *Memory) ledger() warm.Ledger { return warm.Ledger{Dir: m.Dir("nodes"), Warn: m.forgets} }

// cacheLedger is where it is remembered what caches in registries hold: a cache is
// known by its ref, and is another one when its manifest has another digest.
func (m *Memory) cacheLedger() warm.Ledger {
	return warm.Ledger{Dir: m.Dir("caches"), Warn: m.forgets}
}

// files are the digests of the user's files as far as earlier runs know them.
func (m *Memory) files() *filesum.Cache { return filesum.Open(m.Dir("files"), time.Now()) }

// saveFiles keeps what was found out of the user's files. Where it cannot be kept,
// the next run reads them again.
func (m *Memory) saveFiles(files *filesum.Cache) {
	if err := files.Save(); err != nil {
		m.forgets(err)
	}
}

// openHistory opens the cost history. One that cannot be used counts as empty.
func (m *Memory) openHistory(name string) *cost.Store {
	history, err := m.History(name)
	if err != nil {
		m.forgets(err)
	}
	for _, note := range history.Notes() {
		m.warn(note)
	}
	return history
}

// closeHistory keeps what was measured.
func (m *Memory) closeHistory(history *cost.Store) {
	before := len(history.Notes())
	if err := history.Close(); err != nil {
		m.forgets(err)
	}
	for _, note := range history.Notes()[before:] {
		m.warn(note)
	}
}

// History opens the cost history: the file with an absolute name, that of the user for
// "", or none for [cost.InMemory]. With an error, it can be used but is empty.
func (m *Memory) History(name string) (*cost.Store, error) {
	own := name == ""
	switch dir := m.Dir(""); {
	case own && dir == "":
		name = cost.InMemory
	case own:
		name = filepath.Join(dir, "history.db")
	}
	return cost.Open(name, cost.Options{Own: own})
}
