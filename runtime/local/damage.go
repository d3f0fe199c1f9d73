package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	bolt "go.etcd.io/bbolt"
	bolterrors "go.etcd.io/bbolt/errors"

	"github.com/dbake/dbake/internal/localfile"
)

// A state directory is a help: whatever is damaged in it is moved aside, with one warning,
// and begins anew. Only what decides who may change it is refused ([makeStateDir]).

// asideSuffix is the end of the name of something that was moved aside.
const asideSuffix = ".damaged"

// setAside gives something another name, in the place of what was set aside before.
func setAside(path string) (string, error) {
	aside := path + asideSuffix
	if err := os.RemoveAll(aside); err != nil {
		return "", err
	}
	return aside, os.Rename(path, aside)
}

// makeWay sets aside what is a pipe, a directory or something else where a file belongs,
// or a file where a directory does. The caller has made sure that nobody else may write
// to the state directory. The state file is left to [replaceDamaged].
func makeWay(dir string, notify func(string, ...any)) error {
	files := []string{"cluster.lock", "supervisor.log", "registry/registry.log"}
	dirs := []string{"registry", "nodes", "run"}
	for _, n := range nodesOf(dir) {
		at := "nodes/" + n.Name
		dirs = append(dirs, at, at+"/root", at+"/tmp")
		files = append(files, at+"/buildkitd.toml", at+"/buildkitd.log")
	}
	for i, name := range slices.Concat(dirs, files) {
		path, isDir := filepath.Join(dir, name), i < len(dirs)
		fi, err := os.Stat(path)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, syscall.ENOTDIR):
			continue
		case err != nil:
			return fmt.Errorf("state directory: %w", err)
		case isDir && fi.IsDir(), !isDir && fi.Mode().IsRegular():
			continue
		}
		kind := "file"
		if isDir {
			kind = "directory"
		}
		aside, err := setAside(path)
		if err != nil {
			return fmt.Errorf("%s is no %s: %w", path, kind, err)
		}
		notify("WARNING: %s is no %s: moved to %s", path, kind, aside)
	}
	return nil
}

// maxNodes is how many nodes are looked for.
const maxNodes = 1000

// nodesOf returns the nodes that have a place in a state directory, without processes.
func nodesOf(dir string) []nodeState {
	entries, _ := os.ReadDir(filepath.Join(dir, "nodes")) // there may be none
	count := 0
	for _, e := range entries {
		index, isNode := strings.CutPrefix(e.Name(), "n")
		if n, err := strconv.Atoi(index); isNode && err == nil && nodeName(n-1) == e.Name() {
			count = max(count, min(n, maxNodes))
		}
	}
	nodes := make([]nodeState, count)
	for i := range nodes {
		nodes[i].Name = nodeName(i)
	}
	return nodes
}

// replaceDamaged returns the state of a directory whose file is damaged. The caller holds
// the lock, so that no process runs the nodes.
func replaceDamaged(dir string, damage error) (*state, error) {
	path := filepath.Join(dir, "cluster.json")
	aside, err := setAside(path)
	if err != nil {
		return nil, errors.Join(damage, err)
	}
	return &state{
		Nodes: nodesOf(dir),
		lost:  fmt.Sprintf("WARNING: %v; moved to %s, local nodes go on with what they have built", damage, aside),
	}, nil
}

// askToSave asks the supervisor, if there is one, to write the state file.
func askToSave(ctx context.Context, dir string) {
	ctx, cancel := context.WithTimeout(ctx, greeting)
	defer cancel()
	m, err := connect(ctx, dir)
	if err != nil {
		return // the file stays as it is
	}
	defer m.close()
	_, _ = m.call(ctx, request{Op: "save"}, func(string) {}) // likewise
}

// storeDamage returns why a daemon cannot use the store below root, nil where that shows
// only in its start. BuildKit takes an empty or missing database for a new one, opens that
// of the snapshots with the first step, and then fails each.
func storeDamage(root string) error {
	workers, err := filepath.Glob(filepath.Join(escapeGlob(root), "*", "snapshots"))
	if err != nil {
		return err
	}
	for _, snapshots := range workers {
		worker := filepath.Dir(snapshots)
		for _, name := range []string{"containerdmeta.db", "metadata_v2.db", "snapshots/metadata.db"} {
			if err := openDatabase(filepath.Join(worker, name)); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
	}
	return nil
}

// workerID is a name that a daemon gave its worker.
var workerID = regexp.MustCompile(`^[0-9A-Za-z_.-]+$`)

// maxWorkerID is the length of the longest that is believed. As a part of the expression it
// would take its time of every start.
const maxWorkerID = 128

// dropWorkerIDs removes the names of workers below root that no daemon gave: one that has
// bytes of its own breaks every answer about the worker, and a new one costs nothing but
// what earlier runs know about the node.
func dropWorkerIDs(root string) error {
	paths, err := filepath.Glob(filepath.Join(escapeGlob(root), "*", "workerid"))
	if err != nil {
		return err
	}
	for _, path := range paths {
		if id, err := localfile.Read(path, 1<<10); err != nil || len(id) > maxWorkerID || !workerID.Match(id) {
			if err := os.RemoveAll(path); err != nil {
				return err
			}
		}
	}
	return nil
}

func openDatabase(path string) (err error) {
	fi, err := os.Stat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return errors.New("it is missing")
	case err != nil:
		return err
	case !fi.Mode().IsRegular():
		return errors.New("not a regular file")
	case fi.Size() == 0:
		return errors.New("it is empty")
	}
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("%v", p)
		}
	}()
	db, err := bolt.Open(path, 0o600, &bolt.Options{ReadOnly: true, Timeout: time.Second})
	if errors.Is(err, bolterrors.ErrTimeout) {
		return nil // somebody reads it
	}
	if err != nil {
		return err
	}
	return db.Close()
}

// suspicion is the question whether a daemon that ends at its start does so because of
// its store.
type suspicion struct {
	root  string
	ends  int    // starts in a row that ended by themselves
	why   error  // of the last
	aside string // where the store is meanwhile; "" = in its place
}

// withStore is how many starts a store is given.
const withStore = 2

// examine looks at the store before a start, and sets it aside when it is damaged or has
// had its starts.
func (s *suspicion) examine() error {
	if err := dropWorkerIDs(s.root); err != nil {
		return err
	}
	if damage := storeDamage(s.root); damage != nil {
		s.why = damage
	} else if s.ends != withStore {
		return nil
	}
	entries, err := os.ReadDir(s.root)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if len(entries) == 0 {
		return nil // nothing to blame
	}
	s.aside, err = setAside(s.root)
	return err
}

// blame notes that a daemon has ended by itself before it answered. It reports whether to
// start it again at once, with the store or without.
func (s *suspicion) blame(why error) bool {
	s.ends++
	s.why = why
	return s.ends <= withStore
}

// acquit gives the store its place back after a start that failed without it.
func (s *suspicion) acquit() error {
	if s.aside == "" {
		return nil
	}
	from := s.aside
	s.aside = ""
	if err := os.RemoveAll(s.root); err != nil {
		return err
	}
	return os.Rename(from, s.root)
}

// convict removes the store after a start that succeeded without it. It returns why that
// was done; "" = it was not.
func (s *suspicion) convict() (string, error) {
	s.ends = 0
	if s.aside == "" {
		return "", nil
	}
	from := s.aside
	s.aside = ""
	cause, _, _ := strings.Cut(s.why.Error(), "\n")
	return cause, os.RemoveAll(from)
}
