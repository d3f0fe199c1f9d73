package simnode

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net"
	"net/url"
	"slices"
	"sync"
	"time"

	"github.com/moby/buildkit/client/connhelper"
	digest "github.com/opencontainers/go-digest"
)

// Options describe a node.
type Options struct {
	// Registry is what it pulls from and pushes to.
	Registry *Registry
	// Seed is that of what it draws: results of steps that are not reproducible.
	Seed uint64
	// Slots is how many steps it runs at once; 0 = 4.
	Slots int
	// Latency is that of every piece of its connections.
	Latency time.Duration
	// Slow is by how much its steps take longer than they say; 0 = 1.
	Slow float64
	// Timing is the time of its own work.
	Timing Timing
}

// Timing is the time of a daemon's work, besides that of steps.
type Timing struct{ Pull, Push, Import, Export, Step time.Duration }

// DefaultTiming is that of a daemon near its registry.
var DefaultTiming = Timing{Pull: 300 * time.Millisecond, Push: 200 * time.Millisecond, Import: 20 * time.Millisecond, Export: 150 * time.Millisecond, Step: 100 * time.Millisecond}

// Node is a machine with a daemon. It is safe for concurrent use.
type Node struct {
	options Options
	addr    string
	wires   wires

	mu         sync.Mutex
	disk       *disk
	process    *process // nil while the machine is gone
	sick       error    // what every step fails with; nil = none
	drains     bool     // its label says that it is to go
	executions []Execution
}

// Execution is a step that a node has run to its end.
type Execution struct {
	// Vertex is its digest as the client knows it, of a step that ignores the cache as well.
	Vertex digest.Digest
	Name   string
	// Layer is what it has made; "" when it failed.
	Layer digest.Digest
	At    time.Time
}

// disk holds the state of a machine that outlives its process.
type disk struct {
	id string

	mu      sync.Mutex
	results map[digest.Digest]*result // by key
	blobs   map[digest.Digest][]byte
	packs   map[digest.Digest]bool // the layers that were made blobs, for an image or a cache
	rand    *rand.Rand
}

func newDisk(seed uint64, boot int) *disk {
	return &disk{
		id:      fmt.Sprintf("worker-%d-%d", seed, boot),
		results: map[digest.Digest]*result{}, blobs: map[digest.Digest][]byte{}, packs: map[digest.Digest]bool{},
		rand: rand.New(rand.NewPCG(seed, uint64(boot))),
	}
}

// scheme is that of the addresses of nodes.
const scheme = "simnode"

// nodes are those that can be reached by their address: dialers know no more of a node.
var nodes struct {
	sync.Mutex
	once sync.Once
	next int
	list map[string]*Node
}

// New starts a node. It is to be closed.
func New(opts Options) *Node {
	n := &Node{options: opts, disk: newDisk(opts.Seed, 0)}
	n.wires.latency = opts.Latency
	nodes.once.Do(func() {
		nodes.list = map[string]*Node{}
		connhelper.Register(scheme, func(u *url.URL) (*connhelper.ConnectionHelper, error) {
			nodes.Lock()
			defer nodes.Unlock()
			n := nodes.list[u.Host]
			if n == nil {
				return nil, fmt.Errorf("no simulated node %s", u.Host)
			}
			return &connhelper.ConnectionHelper{ContextDialer: n.dial}, nil
		})
	})
	nodes.Lock()
	defer nodes.Unlock()
	nodes.next++
	n.addr = fmt.Sprint("n", nodes.next)
	nodes.list[n.addr] = n
	n.process = newProcess(n, n.disk)
	return n
}

// Addr is the address under which clients reach the node.
func (n *Node) Addr() string { return scheme + "://" + n.addr }

// errRefused is the failure of a dial to a machine that is gone.
var errRefused = errors.New("connect: connection refused")

func (n *Node) dial(ctx context.Context, _ string) (net.Conn, error) {
	n.mu.Lock()
	p := n.process
	n.mu.Unlock()
	if p == nil {
		return nil, errRefused
	}
	client, server := n.wires.connect()
	select {
	case p.listen.conns <- server:
		return client, nil
	case <-p.listen.done:
		return nil, errRefused
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// Lose takes the machine away: its connections break, and its work ends.
func (n *Node) Lose() {
	n.mu.Lock()
	p := n.process
	n.process = nil
	n.mu.Unlock()
	n.wires.cut()
	if p != nil {
		p.close()
	}
}

// Return brings a machine back that was lost; empty says that it holds nothing any more,
// and is another worker.
func (n *Node) Return(empty bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.process != nil {
		return
	}
	if empty {
		n.disk = newDisk(n.options.Seed, len(n.executions)+1)
	}
	n.process = newProcess(n, n.disk)
}

// Cut breaks the connections to the node. The machine goes on.
func (n *Node) Cut() { n.wires.cut() }

// Silence has nothing pass to and from the node, until it is called with false.
func (n *Node) Silence(on bool) { n.wires.silence(on) }

// Sicken has every step fail with err from now on; nil heals.
func (n *Node) Sicken(err error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.sick = err
}

// Drain has the label of the node say whether it is to go.
func (n *Node) Drain(on bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.drains = on
}

func (n *Node) labels() map[string]string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return map[string]string{"dbake.drain": fmt.Sprint(n.drains)}
}

func (n *Node) sickness() error {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.sick
}

// Evict has the node forget the results that no build uses, of those for which which says so.
func (n *Node) Evict(which func() bool) {
	n.mu.Lock()
	d, p := n.disk, n.process
	n.mu.Unlock()
	used := map[digest.Digest]bool{}
	if p != nil {
		used = p.usedKeys()
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, k := range slices.Sorted(maps.Keys(d.results)) {
		if !used[k] && which() {
			delete(d.results, k)
		}
	}
	if len(used) == 0 {
		d.sweep()
	}
}

// sweep deletes the layers without a result; d.mu is held.
func (d *disk) sweep() {
	kept := map[digest.Digest]bool{}
	for _, r := range d.results {
		for _, l := range r.layers {
			kept[l] = true
		}
	}
	for l := range d.blobs {
		if !kept[l] {
			delete(d.blobs, l)
			delete(d.packs, l)
		}
	}
}

// Executions returns the steps that the node has run to their end, in order.
func (n *Node) Executions() []Execution {
	n.mu.Lock()
	defer n.mu.Unlock()
	return append([]Execution(nil), n.executions...)
}

func (n *Node) note(e Execution) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.executions = append(n.executions, e)
}

// Close ends the node.
func (n *Node) Close() {
	n.Lose()
	nodes.Lock()
	defer nodes.Unlock()
	delete(nodes.list, n.addr)
}
