package engine

import (
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/dbake/dbake/internal/memory/cost"
	"github.com/dbake/dbake/internal/memory/transfer"
	"github.com/dbake/dbake/internal/plan"
	"github.com/dbake/dbake/runtime"
)

const (
	// maxTransfers bounds the file in which a pool's transfers are kept.
	maxTransfers = 1 << 20
	// mostWays is how many ways are remembered of a pool: those used last.
	mostWays = 16
)

// pastTransfers are the transfers between the nodes of a pool in earlier runs.
type pastTransfers struct {
	Addrs []string `json:"addrs"`
	// Ways holds them by the host of the registry that they went through, "" for the client.
	Ways map[string]transfer.Past `json:"ways"`
}

// wayOf returns how results of a session go from node to node, and how long that took in earlier runs.
func wayOf(s *Session) plan.Way {
	w := plan.Way{Now: time.Now()}
	if len(s.request.Stores) > 0 {
		w.Registry = domain(s.request.Stores[0].Name)
	}
	dir, name, addrs := s.engine.poolFile(s.standby.nodes, "transfers", maxTransfers)
	if dir.Dir == "" || s.request.History == cost.InMemory {
		return w
	}
	data, err := dir.Read(name)
	if err != nil {
		s.engine.memory.Forgets(fmt.Errorf("read how long results took from node to node: %w", err))
	}
	w.Past = decodeTransfers(data, addrs).Ways[w.Registry]
	return w
}

// decodeTransfers reads what is remembered of the nodes with these addresses; data that is damaged
// says nothing.
func decodeTransfers(data []byte, addrs []string) pastTransfers {
	var past pastTransfers
	if len(data) == 0 || json.Unmarshal(data, &past) != nil || !slices.Equal(past.Addrs, addrs) || past.Ways == nil {
		return pastTransfers{Addrs: addrs, Ways: map[string]transfer.Past{}}
	}
	return past
}

// rememberTransfers keeps how long the results of a run took from node to node. The history must
// know the run: the sizes of the results are taken from it.
func rememberTransfers(s *Session) error {
	x := &s.run
	dir, name, addrs := s.engine.poolFile(s.standby.nodes, "transfers", maxTransfers)
	seen := transferSamples(x.result.Transfers, func(steps []int) int64 { return plan.MeasuredBytes(x.build, steps) })
	if dir.Dir == "" || s.request.History == cost.InMemory || len(seen) == 0 {
		return nil
	}
	err := dir.Update(name, func(old []byte) ([]byte, error) {
		past := decodeTransfers(old, addrs)
		past.add(seen)
		return json.Marshal(past)
	})
	if err != nil {
		return fmt.Errorf("remember how long results took from node to node: %w", err)
	}
	return nil
}

// add adds the samples of a run, by way.
func (p *pastTransfers) add(seen map[string][]transfer.Sample) {
	for way, list := range seen {
		p.Ways[way] = p.Ways[way].Add(list...)
	}
	last := func(way string) time.Time {
		if list := p.Ways[way]; len(list) > 0 {
			return list[len(list)-1].When
		}
		return time.Time{}
	}
	ways := slices.SortedFunc(maps.Keys(p.Ways), func(a, b string) int {
		return cmp.Or(last(b).Compare(last(a)), cmp.Compare(a, b))
	})
	for _, way := range ways[min(mostWays, len(ways)):] {
		delete(p.Ways, way)
	}
}

// transferSamples returns what transfers teach, by way. bytes returns the size of some steps, 0
// when it is not known.
func transferSamples(list []runtime.Transfer, bytes func([]int) int64) map[string][]transfer.Sample {
	seen := map[string][]transfer.Sample{}
	for _, t := range list {
		size := bytes(t.Steps)
		if size <= 0 || t.Took <= 0 {
			continue
		}
		end := t.Start.Add(t.Took)
		var beside time.Duration // of all others, added up
		for _, o := range list {
			if o.Registry != t.Registry {
				continue
			}
			begun, ended := o.Start, o.Start.Add(o.Took)
			if begun.Before(t.Start) {
				begun = t.Start
			}
			if ended.After(end) {
				ended = end
			}
			beside += max(0, ended.Sub(begun))
		}
		seen[t.Registry] = append(seen[t.Registry], transfer.Sample{
			Bytes: size, Took: t.Took, Beside: float64(beside)/float64(t.Took) - 1, When: end, // itself is among them
		})
	}
	return seen
}
