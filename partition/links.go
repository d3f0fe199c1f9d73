package partition

// crossing are the transfers of all nodes in one direction, where the registry or the client
// carries no more than some of them at once. The links of the nodes wait for it in a heap: of a
// node, only what is first in its own queue can be next, so that a start costs the logarithm of
// the number of nodes and not a look at each.
type crossing struct {
	room  int32   // how many more transfers start
	heap  []int32 // resources that are free and have a task waiting, by which of these goes first
	at    []int32 // per resource: its place in heap, -1 = it is not there
	freed int32   // the task that last made room, -1 = none
}

// crossingOf returns the crossing that tasks of resource r need, nil if there is none.
func crossingOf(s *simulator, r int32) *crossing {
	if s.m.links == 0 || r%3 == int32(Exec) {
		return nil
	}
	return &s.crossings[r%3-1]
}

// reopen makes all room of the crossings free. Nothing waits.
func reopen(s *simulator) {
	if s.m.links == 0 {
		return
	}
	for d := range s.crossings {
		x := &s.crossings[d]
		x.room, x.heap, x.freed = s.m.links, x.heap[:0], -1
		x.at = grow(x.at, 3*s.m.nn)
		for r := range x.at {
			x.at[r] = -1
		}
	}
}

// offer lets r wait for x, or moves it forward when something else became the first in its queue.
func (x *crossing) offer(s *simulator, r int32) {
	if s.free[r] == 0 || len(s.queue[r]) == 0 {
		return
	}
	c := int(x.at[r])
	if c < 0 {
		c = len(x.heap)
		x.heap = append(x.heap, r)
	}
	for c > 0 {
		up := (c - 1) / 2
		if !headFirst(s, r, x.heap[up]) {
			break
		}
		x.heap[c] = x.heap[up]
		x.at[x.heap[c]] = int32(c)
		c = up
	}
	x.heap[c], x.at[r] = r, int32(c)
}

// leave takes the first resource out of the heap of x.
func (x *crossing) leave(s *simulator) {
	n := len(x.heap) - 1
	x.at[x.heap[0]] = -1
	r := x.heap[n]
	x.heap = x.heap[:n]
	if n == 0 {
		return
	}
	c := 0
	for {
		l := 2*c + 1
		if l >= n {
			break
		}
		if l+1 < n && headFirst(s, x.heap[l+1], x.heap[l]) {
			l++
		}
		if !headFirst(s, x.heap[l], r) {
			break
		}
		x.heap[c] = x.heap[l]
		x.at[x.heap[c]] = int32(c)
		c = l
	}
	x.heap[c], x.at[r] = r, int32(c)
}

// headFirst reports whether what is first in a's queue goes before what is first in b's.
func headFirst(s *simulator, a, b int32) bool { return s.goesFirst(s.queue[a][0], s.queue[b][0]) }

// blocker returns the task whose end let one of resource r start at a time, for which it had been
// ready: that which had the unit, or the room.
func blocker(s *simulator, r int32, now float64) int32 {
	own := s.freed[r]
	if x := crossingOf(s, r); x != nil && x.freed >= 0 && (own < 0 || s.end[own] < now) && s.end[x.freed] == now {
		return x.freed
	}
	return own
}

// overbooked reports, of the sums of mustExceed, whether the transfers of all nodes in one
// direction take longer than limit.
func overbooked(s *simulator, limit float64) bool {
	if s.m.links == 0 {
		return false
	}
	for d := 1; d < 3; d++ {
		work, head, tail, some := 0.0, 0.0, 0.0, false
		for r := d; r < len(s.resWork); r += 3 {
			if s.resWork[r] == 0 {
				continue
			}
			if work += s.resWork[r]; !some {
				head, tail, some = s.resHead[r], s.resTail[r], true
			}
			head, tail = min(head, s.resHead[r]), min(tail, s.resTail[r])
		}
		if some && (work/float64(s.m.links)+head+tail)*(1-1e-12) > limit {
			return true
		}
	}
	return false
}
