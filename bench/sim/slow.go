package sim

import (
	"time"

	"github.com/dbake/dbake/partition"
)

// Slowdown is a node that becomes slow.
type Slowdown struct {
	Node partition.NodeID
	At   time.Duration
	// Factor is by how much longer its steps take from then on, what is left of
	// those under way included.
	Factor float64
}

// slow slows a node down.
func (c *Cluster) slow(n partition.NodeID, factor float64) {
	m := c.nodes[n]
	m.slowed = factor
	for _, v := range m.list {
		if w := m.want[v]; w != nil && w.token != 0 && !w.fetch {
			left := time.Duration(float64(w.ends-c.now) * factor)
			c.begin(m, v, w, left)
		}
	}
}

// alone reports whether slowed nodes work and no other node does.
func (c *Cluster) alone() bool {
	works := false
	for _, m := range c.nodes {
		switch {
		case m.slowed == 0 && (m.busy > 0 || m.pulling || m.pushing):
			return false
		case m.slowed > 0 && m.busy > 0:
			works = true
		}
	}
	return works
}
