package partition

// revision is a draft that is being changed, with a log by which changes are taken back.
type revision struct {
	cur   *draft
	words int // of a set of nodes
	undo  []change
}

// change is what stood at one place of a draft before.
type change struct {
	what  uint8
	index int32
	old   uint64
	list  []int32
}

const (
	changedNode uint8 = iota
	changedFetch
	changedSource
	changedOrder
)

// rollback takes back what was changed since the log was emptied.
func (r *revision) rollback() {
	for i := len(r.undo) - 1; i >= 0; i-- {
		c := r.undo[i]
		switch c.what {
		case changedNode:
			r.cur.node[c.index] = int32(c.old)
		case changedFetch:
			r.cur.fetch[c.index] = c.old
		case changedSource:
			r.cur.src[c.index] = int32(c.old)
		case changedOrder:
			r.cur.order[c.index] = c.list
		}
	}
}

func (r *revision) setNode(t int32, n int) {
	r.undo = append(r.undo, change{what: changedNode, index: t, old: uint64(r.cur.node[t])})
	r.cur.node[t] = int32(n)
}

func (r *revision) setFetch(v, n int, on bool) {
	i := v*r.words + n>>6
	r.undo = append(r.undo, change{what: changedFetch, index: int32(i), old: r.cur.fetch[i]})
	if on {
		r.cur.fetch[i] |= 1 << (n & 63)
	} else {
		r.cur.fetch[i] &^= 1 << (n & 63)
	}
}

func (r *revision) setSource(v, q int) {
	r.undo = append(r.undo, change{what: changedSource, index: int32(v), old: uint64(r.cur.src[v])})
	r.cur.src[v] = int32(q)
}

func (r *revision) setOrder(n int, list []int32) {
	r.undo = append(r.undo, change{what: changedOrder, index: int32(n), list: r.cur.order[n]})
	r.cur.order[n] = list
}
