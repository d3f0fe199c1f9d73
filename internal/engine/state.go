package engine

import "maps"

// State returns the state of the project as it was built. A later session compares itself
// with it. name is what the user calls it. Targets that were not
// built count as changed. The stage [Reuse] must have been done, of a request for all
// keys.
func (s *Session) State(name string) *Since {
	keys := maps.Clone(s.images.keys)
	if s.run.result != nil {
		for _, j := range s.run.result.Jobs {
			if !j.State.Good() {
				delete(keys, j.Target)
			}
		}
	}
	return &Since{name: name, now: &past{keys: keys, build: s.prepared.full}}
}
