package sched

import (
	"fmt"
	"time"
)

const (
	// defaultAttempts is MaxAttempts when it is 0.
	defaultAttempts = 3
	// maxBackoff is the longest delay before an attempt.
	maxBackoff = 5 * time.Minute
)

// fault is how a submission of a unit came to nothing.
type fault int

const (
	final     fault = iota // it would fail again
	passing                // the surroundings are to blame, or the node is lost
	misplaced              // the node is to blame: another one may succeed
	flawed                 // a step ran and failed, and is executed again
)

// mayRetry reports whether a unit that failed on n is tried again; if not, ending is to be
// added to the reason. This is the rule, all of it:
//
//   - While another node works on the unit, that one decides.
//   - Attempts that fail for what may pass are counted. The last of Options.MaxAttempts
//     is final.
//   - What failed because of its node is tried on another one, if none is at it already. That
//     counts as an attempt.
//   - A step that ran and failed is executed again as [Scheduler.flaw] says.
//   - Anything else is final.
func (s *fates) mayRetry(id UnitID, n *node, f fault) (yes bool, ending string) {
	u := &s.units[id]
	if f == passing || f == misplaced && len(u.runs) == 0 {
		u.tries++
	}
	switch {
	case len(u.runs) > 0:
		if f == misplaced {
			s.avoid(id, n)
		}
		return true, ""
	case f == flawed:
		return true, ""
	case (f == passing || f == misplaced) && u.tries >= s.cfg.Options.MaxAttempts:
		return false, fmt.Sprintf(" (%s)", attempts(u.tries))
	case f == misplaced:
		return s.avoid(id, n), ""
	case f == passing:
		return true, ""
	}
	return false, ""
}

// avoid keeps a unit from a node that failed it. It reports false when no other node may
// build it.
func (s *fates) avoid(id UnitID, failed *node) bool {
	var others []NodeID
	for _, n := range s.nodes {
		if n != failed && n.state != lost && s.cfg.allows(id, n.id) {
			others = append(others, n.id)
		}
	}
	if len(others) == 0 {
		return false
	}
	s.cfg.Units[id].Nodes = others
	return true
}

func attempts(n int) string {
	if n == 1 {
		return "1 attempt"
	}
	return fmt.Sprintf("%d attempts", n)
}

// backoff is the delay before units that were tried in vain are submitted again. It
// doubles with each attempt of the one that was tried most often.
func (s *fates) backoff(units []UnitID) time.Duration {
	tries := 0
	for _, u := range units {
		tries = max(tries, s.units[u].tries)
	}
	d := s.cfg.Options.Backoff
	for range tries - 1 {
		if d >= maxBackoff {
			return maxBackoff
		}
		d *= 2
	}
	return min(d, maxBackoff)
}
