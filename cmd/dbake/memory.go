package main

import (
	"errors"
	"path/filepath"
	"syscall"
	"time"

	"github.com/dbake/dbake/internal/cost"
	"github.com/dbake/dbake/internal/filesum"
	"github.com/dbake/dbake/internal/warm"
)

// What dbake remembers from run to run is a help and never needed: whatever is wrong
// with it is a warning.

// forgets says why something could not be remembered: each cause once, as a full
// disk is met by all. It may be called from several goroutines.
func (a *app) forgets(err error) {
	a.forgetting.Lock()
	defer a.forgetting.Unlock()
	cause := err.Error()
	var errno syscall.Errno
	if errors.As(err, &errno) {
		cause = errno.Error()
	}
	if a.forgotten[cause] {
		return
	}
	if a.forgotten == nil {
		a.forgotten = map[string]bool{}
	}
	a.forgotten[cause] = true
	a.progress.Warn(err.Error() + "; the build goes on without it")
}

// ledger is where it is remembered what nodes hold.
func (a *app) ledger() warm.Ledger { return warm.Ledger{Dir: a.cacheDir("nodes"), Warn: a.forgets} }

// cacheLedger is where it is remembered what caches in registries hold: a cache is
// known by its ref, and is another one when its manifest has another digest.
func (a *app) cacheLedger() warm.Ledger {
	return warm.Ledger{Dir: a.cacheDir("caches"), Warn: a.forgets}
}

// files are the digests of the user's files as far as earlier runs know them.
func (a *app) files() *filesum.Cache { return filesum.Open(a.cacheDir("files"), time.Now()) }

// saveFiles keeps what was found out of the user's files. Where it cannot be kept,
// the next run reads them again.
func (a *app) saveFiles(files *filesum.Cache) {
	if err := files.Save(); err != nil {
		a.forgets(err)
	}
}

// openHistory opens the cost history: FILE, "none", or that of the user. One that
// cannot be used counts as empty.
func (a *app) openHistory(name string) *cost.Store {
	history, err := a.readHistory(name)
	if err != nil {
		a.forgets(err)
	}
	for _, note := range history.Notes() {
		a.progress.Warn(note)
	}
	return history
}

// closeHistory keeps what was measured.
func (a *app) closeHistory(history *cost.Store) {
	before := len(history.Notes())
	if err := history.Close(); err != nil {
		a.forgets(err)
	}
	for _, note := range history.Notes()[before:] {
		a.progress.Warn(note)
	}
}

// readHistory opens the cost history; with an error, it can be used but is empty.
func (a *app) readHistory(name string) (*cost.Store, error) {
	own := name == ""
	switch dir := a.cacheDir(""); {
	case own && dir == "":
		name = cost.InMemory
	case own:
		name = filepath.Join(dir, "history.db")
	case name != cost.InMemory:
		name = a.path(name)
	}
	return cost.Open(name, cost.Options{Own: own})
}

// cacheDir returns a directory below the user's cache directory, "" when there is
// none. A name that is not absolute counts as none: it would be another directory in
// every project.
func (a *app) cacheDir(name string) string {
	base := a.env["XDG_CACHE_HOME"]
	if !filepath.IsAbs(base) && filepath.IsAbs(a.env["HOME"]) {
		base = filepath.Join(a.env["HOME"], ".cache")
	}
	if !filepath.IsAbs(base) {
		return ""
	}
	return filepath.Join(base, "dbake", name)
}
