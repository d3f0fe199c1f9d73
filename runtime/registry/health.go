package registry

import (
	"sync"
	"time"
)

// noteEvery is how often a line about one registry is shown.
const noteEvery = 2 * time.Second

// health is the state of each registry as a client has found it.
type health struct {
	mu   sync.Mutex // guards the fields below
	gone map[string]error
	told map[string]time.Time
}

// of returns why nothing is to be hoped for from a registry, nil when there is hope.
func (h *health) of(host string) error {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.gone[host]
}

func (h *health) set(host string, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if err == nil {
		delete(h.gone, host)
		return
	}
	if h.gone == nil {
		h.gone = map[string]error{}
	}
	h.gone[host] = err
}

// tell reports whether a line about a registry is due.
func (h *health) tell(host string, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	if last, ok := h.told[host]; ok && now.Sub(last) < noteEvery {
		return false
	}
	if h.told == nil {
		h.told = map[string]time.Time{}
	}
	h.told[host] = now
	return true
}
