package cost

import (
	"encoding/json"
	"math"
	"slices"
	"time"
)

// Machine is what a node runs on, as it reported itself.
type Machine struct {
	// Cores is the number of its processors, Memory that of its bytes.
	Cores  float64 `json:"cores"`
	Memory int64   `json:"memory,omitempty"`
	// Boot is when it started. Nodes whose machines agree in all share one.
	Boot time.Time `json:"boot"`
	// When is when it reported.
	When time.Time `json:"when"`
}

const (
	// maxMachines is kept in a history; those that reported longest ago are dropped first.
	maxMachines = 1000
	// bootTolerance is how far two values for the start of one machine may lie apart.
	bootTolerance = 20 * time.Second
)

// Same reports whether m and o are one machine.
func (m Machine) Same(o Machine) bool {
	return m.Cores == o.Cores && m.Memory == o.Memory && m.Boot.Sub(o.Boot).Abs() < bootTolerance
}

// valid reports whether m says anything.
func (m Machine) valid() bool {
	return m.Cores > 0 && m.Cores < 1<<16 && !math.IsNaN(m.Cores) && m.Memory >= 0 && m.When.Year() >= 1970 && m.When.Year() < 2200
}

// RecordMachine notes what a node runs on. It is kept in memory until Flush.
func (s *Store) RecordMachine(node string, m Machine) {
	if node == "" || len(node) > maxText || !m.valid() {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	addMachine(s.machines, node, m)
	addMachine(s.pendingMachines, node, m)
}

// Machine returns what a node runs on; ok is false when it has not reported.
func (s *Store) Machine(node string) (m Machine, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	m, ok = s.machines[node]
	return m, ok
}

// addMachine keeps the last report.
func addMachine(to map[string]Machine, node string, m Machine) {
	if old, ok := to[node]; !ok || !m.When.Before(old.When) {
		to[node] = m
	}
	if len(to) <= 2*maxMachines {
		return
	}
	for _, n := range oldest(to)[:len(to)-maxMachines] {
		delete(to, n)
	}
}

// oldest returns the nodes, those that reported longest ago first.
func oldest(machines map[string]Machine) []string {
	var nodes []string
	for n := range machines {
		nodes = append(nodes, n)
	}
	slices.SortFunc(nodes, func(a, b string) int { return machines[a].When.Compare(machines[b].When) })
	return nodes
}

// decodeMachine reads what encodeMachine wrote.
func decodeMachine(data []byte) (Machine, bool) {
	var m Machine
	err := json.Unmarshal(data, &m)
	return m, err == nil && m.valid()
}

func encodeMachine(m Machine) []byte {
	data, err := json.Marshal(m)
	if err != nil {
		return nil // a valid machine can always be encoded
	}
	return data
}
