package local

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/gofrs/flock"
	"golang.org/x/sync/errgroup"
)

// host runs the registry and the daemons of a state directory, for a number of users.
// It holds the directory's lock from newHost to close.
type host struct {
	dir         string
	programs    programs
	parallelism int
	log         func(format string, args ...any)
	lock        *flock.Flock
	registry    *Registry

	// ops is held by whoever changes users, keepers or entitlements, which takes
	// time; mu only while they are read or replaced.
	ops chan struct{}

	mu           sync.Mutex // guards what follows
	state        state
	entitlements []string // of the daemons, sorted
	keepers      []*keeper
	users        []*user
	kept         int           // nodes that stay without users
	changed      chan struct{} // closed and replaced when a user leaves
	ending       bool
	ended        chan struct{} // closed when ending becomes true
}

// user is one who uses the nodes of a host.
type user struct {
	Wants
	User
}

// Wants are the needs of a user.
type Wants struct {
	Nodes        int
	Entitlements []string // sorted
	Buildkitd    string   // the executable; "" = any
	Parallelism  int
}

// errEnding is the answer of a host that is about to end: the next one is to be asked.
var errEnding = errors.New("the cluster is stopping")

// newHost takes the state directory and removes the leftovers of a crashed predecessor. The
// registry runs when it returns, but no daemon does.
func newHost(ctx context.Context, dir string, opts Options, shared bool, log func(string, ...any)) (*host, error) {
	programs, err := findPrograms(opts.Buildkitd)
	if err != nil {
		return nil, err
	}
	if err := makeStateDir(dir, log); err != nil {
		return nil, err
	}
	lock, st, err := lockOrOwner(ctx, dir)
	if err != nil {
		return nil, err
	}
	if lock == nil {
		return nil, inUse(dir, st.Owner)
	}
	if st.lost != "" {
		log("%s", st.lost)
	}
	h := &host{
		dir: dir, programs: programs, parallelism: opts.Parallelism, log: log, lock: lock, state: *st,
		ops: make(chan struct{}, 1), changed: make(chan struct{}), ended: make(chan struct{}),
	}
	if err := h.open(ctx, shared); err != nil {
		return nil, errors.Join(err, lock.Unlock())
	}
	return h, nil
}

func inUse(dir string, by *owner) error {
	return fmt.Errorf("%w: %s is run by a process with id %d; wait for it, or choose another --state-dir", ErrInUse, dir, by.PID)
}

func (h *host) open(ctx context.Context, shared bool) error {
	if err := h.state.clearLeftovers(ctx, h.dir); err != nil {
		return err
	}
	if err := h.state.reserve(h.log); err != nil {
		return err
	}
	self, err := processStart(os.Getpid())
	if err != nil {
		return err
	}
	h.state.Owner = &owner{PID: os.Getpid(), Started: self, Shared: shared}
	if h.registry, err = listenRegistry(filepath.Join(h.dir, "registry"), h.state.Registry); err != nil {
		return err
	}
	if err := h.state.save(h.dir); err != nil {
		return errors.Join(err, h.registry.Close())
	}
	return nil
}

// save writes the state file, with the daemons that run now.
func (h *host) save() {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.state.Owner == nil {
		return // it has been closed
	}
	for len(h.state.Nodes) < len(h.keepers) {
		h.state.Nodes = append(h.state.Nodes, nodeState{Name: nodeName(len(h.state.Nodes))})
	}
	for i := range h.state.Nodes {
		n := &h.state.Nodes[i]
		n.PID, n.Started, n.Daemon = 0, 0, 0
		if i < len(h.keepers) {
			if d := h.keepers[i].daemon(); d != nil {
				n.PID, n.Started, n.Daemon = d.pid, d.started, onlyChild(d.pid)
			}
		}
	}
	h.state.Owner.Nodes, h.state.Owner.Kept = len(h.keepers), h.kept
	if err := h.state.save(h.dir); err != nil {
		h.log("%v", err)
	}
}

// acquire takes ops; release it with the function returned.
func (h *host) acquire(ctx context.Context) (func(), error) {
	select {
	case h.ops <- struct{}{}:
		return func() { <-h.ops }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// join gives u the nodes that it wants, and returns when they answer. It waits for others
// if daemons must be restarted for u. Of several nodes some may fail: then notify gets a
// line. A user that joined before may join again with other wants.
func (h *host) join(ctx context.Context, u *user, wants Wants, notify func(string)) error {
	if err := h.admit(ctx, u, wants, notify); err != nil {
		return err
	}
	errs := h.await(ctx, wants.Nodes)
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if len(errs) == wants.Nodes {
		return errors.Join(errs...)
	}
	for _, err := range errs {
		notify("WARNING: " + err.Error())
	}
	h.report(wants.Nodes, notify)
	return nil
}

// report gives notify what the keepers of the first n nodes have to say.
func (h *host) report(n int, notify func(string)) {
	h.mu.Lock()
	keepers := slices.Clone(h.keepers[:min(n, len(h.keepers))])
	h.mu.Unlock()
	for _, k := range keepers {
		for _, note := range k.takeNotes() {
			notify("WARNING: " + note)
		}
	}
}

func (h *host) admit(ctx context.Context, u *user, wants Wants, notify func(string)) error {
	waiting := false
	for {
		release, err := h.acquire(ctx)
		if err != nil {
			return err
		}
		h.mu.Lock()
		others := slices.DeleteFunc(slices.Clone(h.users), func(o *user) bool { return o == u })
		ending, changed := h.ending, h.changed
		granted := !slices.ContainsFunc(wants.Entitlements, func(e string) bool { return !slices.Contains(h.entitlements, e) })
		same := slices.Equal(wants.Entitlements, h.entitlements)
		h.mu.Unlock()
		switch {
		case ending:
			release()
			return errEnding
		case len(others) > 0 && !granted:
			// Only a start with another configuration can grant it, and that
			// would take the nodes from under the others.
			release()
			if !waiting {
				waiting = true
				notify(fmt.Sprintf("local nodes start again to allow %s: waiting for %s to end", strings.Join(wants.Entitlements, " and "), describe(names(others))))
			}
			select {
			case <-changed:
				continue
			case <-ctx.Done():
				return context.Cause(ctx)
			}
		case len(others) == 0 && !same:
			err = h.stopFrom(ctx, 0)
			h.mu.Lock()
			h.entitlements = wants.Entitlements
			h.mu.Unlock()
		}
		if err == nil {
			h.add(u, wants, notify)
			h.grow()
		}
		release()
		return err
	}
}

// add enters u, and returns where the daemons differ from its wants.
func (h *host) add(u *user, wants Wants, notify func(string)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if wants.Buildkitd != "" && wants.Buildkitd != h.programs.buildkitd {
		notify(fmt.Sprintf("the local nodes that run use %s, not %s: stop them to change that (dbake cluster down)", h.programs.buildkitd, wants.Buildkitd))
	}
	if wants.Parallelism != h.parallelism {
		notify(fmt.Sprintf("the local nodes that run take %s steps at once each, not %s", atOnce(h.parallelism), atOnce(wants.Parallelism)))
	}
	u.Wants = wants
	if !slices.Contains(h.users, u) {
		h.users = append(h.users, u)
	}
}

func atOnce(n int) string {
	if n == 0 {
		return "any number of"
	}
	return fmt.Sprint(n)
}

// keep makes n nodes stay when nobody uses them. notify is as that of join.
func (h *host) keep(ctx context.Context, n int, notify func(string)) error {
	release, err := h.acquire(ctx)
	if err != nil {
		return err
	}
	h.mu.Lock()
	ending, before := h.ending, h.kept
	if !ending {
		h.kept = max(h.kept, n)
	}
	n = h.kept
	h.mu.Unlock()
	if ending {
		release()
		return errEnding
	}
	h.grow()
	h.save()
	release()
	if errs := h.await(ctx, n); len(errs) > 0 {
		h.mu.Lock()
		h.kept = before
		h.mu.Unlock()
		return errors.Join(append(errs, h.shrink(context.WithoutCancel(ctx)))...)
	}
	h.report(n, notify)
	return nil
}

// wantedNodes returns how many nodes are to run. The caller holds mu.
func (h *host) wantedNodes() int {
	n := h.kept
	for _, u := range h.users {
		n = max(n, u.Nodes)
	}
	return n
}

// grow starts the nodes that are missing. The caller holds ops.
func (h *host) grow() {
	h.mu.Lock()
	defer h.mu.Unlock()
	n := h.wantedNodes()
	conf := daemonConfig{
		registry: h.state.Registry, parallelism: h.parallelism, nodes: n, entitlements: h.entitlements, programs: h.programs,
	}
	for i := len(h.keepers); i < n; i++ {
		h.keepers = append(h.keepers, startKeeper(h.dir, nodeOf(h.dir, i), conf, h.log, h.save))
	}
}

// await waits for the first n nodes and returns the errors of those that failed.
func (h *host) await(ctx context.Context, n int) []error {
	h.mu.Lock()
	keepers := slices.Clone(h.keepers[:min(n, len(h.keepers))])
	h.mu.Unlock()
	errs := make([]error, len(keepers))
	var wg sync.WaitGroup
	for i, k := range keepers {
		wg.Go(func() { errs[i] = k.awaitReady(ctx) })
	}
	wg.Wait()
	h.save() // readers of the state file find the nodes that run
	return slices.DeleteFunc(errs, func(err error) bool { return err == nil })
}

// leave takes u off. It reports whether the host ends, because nobody is left.
func (h *host) leave(ctx context.Context, u *user) (ends bool, err error) {
	h.mu.Lock()
	h.users = slices.DeleteFunc(h.users, func(o *user) bool { return o == u })
	close(h.changed)
	h.changed = make(chan struct{})
	h.mu.Unlock()
	err = h.shrink(ctx)
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.ending, err
}

// shrink stops the nodes that nobody wants any more, and ends the host when there
// is none left.
func (h *host) shrink(ctx context.Context) error {
	release, err := h.acquire(ctx)
	if err != nil {
		return err
	}
	defer release()
	h.mu.Lock()
	n := h.wantedNodes()
	if n == 0 {
		h.end()
	}
	h.mu.Unlock()
	if n == 0 {
		return nil // close stops them
	}
	return h.stopFrom(ctx, n)
}

// stopFrom stops the nodes from an index on. The caller holds ops.
func (h *host) stopFrom(ctx context.Context, from int) error {
	h.mu.Lock()
	var surplus []*keeper
	if from < len(h.keepers) {
		surplus = slices.Clone(h.keepers[from:])
		h.keepers = h.keepers[:from]
	}
	h.mu.Unlock()
	var eg errgroup.Group
	for _, k := range surplus {
		eg.Go(func() error { return k.stop(ctx) })
	}
	err := eg.Wait()
	h.save()
	return err
}

// end lets nobody join any more. The caller holds mu.
func (h *host) end() {
	if !h.ending {
		h.ending = true
		close(h.ended)
	}
}

// endUnused ends the host if nobody uses it, kept or not, and otherwise returns who
// does.
func (h *host) endUnused() []User {
	h.mu.Lock()
	defer h.mu.Unlock()
	if len(h.users) == 0 {
		h.end()
	}
	return names(h.users)
}

func names(users []*user) []User {
	list := make([]User, len(users))
	for i, u := range users {
		list[i] = u.User
	}
	return list
}

// describe names users for a message.
func describe(users []User) string {
	texts := make([]string, len(users))
	for i, u := range users {
		texts[i] = u.String()
	}
	slices.Sort(texts)
	return strings.Join(texts, ", ")
}

// err returns the error of a node, nil while it answers.
func (h *host) err(name string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, k := range h.keepers {
		if k.node.Name == name {
			return k.lastErr()
		}
	}
	return nil
}

// close stops everything and gives the state directory back. It always runs to its
// end: when ctx is done daemons are killed instead of asked.
func (h *host) close(ctx context.Context) error {
	h.mu.Lock()
	h.end()
	h.mu.Unlock()
	h.ops <- struct{}{}
	defer func() { <-h.ops }()
	err := errors.Join(h.stopFrom(ctx, 0), h.registry.Close())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.state.Owner = nil
	return errors.Join(err, h.state.save(h.dir), h.lock.Unlock())
}
