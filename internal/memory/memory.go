// Package memory is dbake's memory from run to run, below the user's cache directory: the
// costs of steps (history.db, package cost), the results that nodes and caches in
// registries hold (nodes/, caches/, package warm), the digests of files (files/, package
// filesum), the LLB of Dockerfiles (units/, package units) and registries' answers about
// images (images/, package imagefacts). Packages above keep there the facts that Dockerfiles
// were compiled for (facts/), when nodes came up (arrivals/), how long results took from node
// to node (transfers/, package transfer) and the pushed images (pushed/).
//
// It is a help and never needed: any failure is only a warning. All of it but the history,
// which is one database of bounded size, follows the rule of package folder.
package memory

import (
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"syscall"
	"time"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/memory/filesum"
	"github.com/dbake/dbake/internal/memory/folder"
	"github.com/dbake/dbake/internal/memory/runs"
	"github.com/dbake/dbake/internal/memory/units"
	"github.com/dbake/dbake/internal/memory/warm"
)

// Memory is dbake's memory from run to run, below the user's cache directory.
type Memory struct {
	base string // "" when there is no such directory
	warn func(string)

	mu        sync.Mutex
	forgotten map[string]bool // causes for which something was not; guarded by mu
}

// New returns the memory of a user. warn takes its failures.
//
// A directory whose name is not absolute counts as none: it would be another one in
// every project.
func New(env map[string]string, warn func(string)) *Memory {
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

// Forgets warns why something could not be remembered: of each cause once, since a full
// disk affects all. It may be called from several goroutines.
func (m *Memory) Forgets(err error) {
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

// Nodes is the ledger of the results that nodes hold.
func (m *Memory) Nodes() warm.Ledger { return warm.Ledger{Dir: m.Dir("nodes"), Warn: m.Forgets} }

// Caches is the ledger of the results that caches in registries hold: a cache is known by
// its ref, and is another one when its manifest has another digest.
func (m *Memory) Caches() warm.Ledger {
	return warm.Ledger{Dir: m.Dir("caches"), Warn: m.Forgets}
}

// Runs is the store of the records of earlier builds.
func (m *Memory) Runs() runs.Store { return runs.Store{Dir: m.Dir("runs")} }

// Files is the cache of the digests of the user's files.
func (m *Memory) Files() *filesum.Cache { return filesum.Open(m.Dir("files"), time.Now()) }

// SaveFiles keeps the digests of the user's files. If that fails, the next run reads them
// again.
func (m *Memory) SaveFiles(files *filesum.Cache) {
	if err := files.Save(); err != nil {
		m.Forgets(err)
	}
}

// Units is what the Dockerfiles of the project in a directory were compiled to.
func (m *Memory) Units(project string) *units.Store {
	return units.Open(m.Dir("units"), project, time.Now())
}

// SaveUnits keeps what Dockerfiles were compiled to. If that fails, the next run compiles
// them again.
func (m *Memory) SaveUnits(s *units.Store) {
	if err := s.Save(); err != nil {
		m.Forgets(err)
	}
}

// Prune removes files that no run has used for long, at most once a day.
func (m *Memory) Prune(now time.Time) {
	if m.base == "" {
		return
	}
	// The mark is read first, so that most runs look at one file.
	base := folder.Folder{Dir: m.Dir(""), Limit: 64, Now: func() time.Time { return now }}
	data, err := base.Read(pruned)
	if last, parseErr := time.Parse(time.RFC3339, string(data)); err == nil && parseErr == nil && now.Sub(last).Abs() < 24*time.Hour {
		return
	}
	errs := []error{err, base.Write(pruned, []byte(now.UTC().Format(time.RFC3339)))}
	for _, name := range []string{"nodes", "caches", "files", "units", "images", "facts", "arrivals", "transfers", "pushed", "runs"} {
		errs = append(errs, folder.Prune(m.Dir(name), now))
	}
	if err := errors.Join(errs...); err != nil {
		m.Forgets(fmt.Errorf("remove what is no longer used: %w", err))
	}
}

// pruned is the file that holds when that was done last.
const pruned = "pruned"

// OpenHistory opens the cost history. One that cannot be used counts as empty.
func (m *Memory) OpenHistory(name string) *cost.Store {
	history, err := m.History(name)
	if err != nil {
		m.Forgets(err)
	}
	for _, note := range history.Notes() {
		m.warn(note)
	}
	return history
}

// CloseHistory saves the new measurements.
func (m *Memory) CloseHistory(history *cost.Store) {
	before := len(history.Notes())
	if err := history.Close(); err != nil {
		m.Forgets(err)
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
