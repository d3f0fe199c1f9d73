package frontend

import (
	"context"
	"crypto/sha256"
	"fmt"
	"hash"
	"sync"

	"github.com/moby/buildkit/client/llb"
	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/proto"

	"github.com/dbake/dbake/compiler/ir"
)

// markedUnits are units in the form in which others that link them are given them, each
// made once. It is safe for concurrent use.
type markedUnits struct {
	mu   sync.Mutex
	list map[*Unit]*markedUnit // guarded by mu
}

type markedUnit struct {
	once  sync.Once
	state llb.State
	err   error

	named sync.Once
	name  [sha256.Size]byte
	wrong error
}

func (m *markedUnits) of(u *Unit) *markedUnit {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.list == nil {
		m.list = map[*Unit]*markedUnit{}
	}
	if m.list[u] == nil {
		m.list[u] = &markedUnit{}
	}
	return m.list[u]
}

// state returns the result of u with marked ids, see [idTable.mark].
func (m *markedUnits) state(ctx context.Context, c *compilation, u *Unit) (llb.State, error) {
	x := m.of(u)
	x.once.Do(func() {
		def, err := u.LLB()
		if err == nil {
			def, err = rewrite(context.WithoutCancel(ctx), def, c.ids.mark, &c.caps)
		}
		if err == nil {
			x.state, err = defState(def)
		}
		if err == nil {
			// A state notes what it has marshalled of its Dockerfiles, without a lock. It
			// does that now, before several compilations share it.
			_, err = x.state.Marshal(context.WithoutCancel(ctx))
		}
		x.err = err
	})
	return x.state, x.err
}

// nameOf returns a digest of all that others see of u but the ids of progress groups, which
// are random.
func (m *markedUnits) nameOf(u *Unit) ([sha256.Size]byte, error) {
	x := m.of(u)
	x.named.Do(func() {
		h := sha256.New()
		var def *pb.Definition
		if def, x.wrong = u.LLB(); x.wrong != nil {
			return
		}
		for _, dt := range def.GetDef() {
			writeText(h, string(dt))
		}
		for _, k := range ir.SortedKeys(def.GetMetadata()) {
			md := def.Metadata[k]
			group := md.GetProgressGroup()
			writeText(h, k, fmt.Sprint(md.GetIgnoreCache(), md.GetExportCache() != nil, md.GetExportCache().GetValue(), group != nil, group.GetName(), group.GetWeak()))
			for _, d := range ir.SortedKeys(md.GetDescription()) {
				writeText(h, d, md.Description[d])
			}
			for _, d := range ir.SortedKeys(md.GetCaps()) {
				writeText(h, d, fmt.Sprint(md.Caps[d]))
			}
			if x.wrong = writeMessage(h, md.GetLinuxResources()); x.wrong != nil {
				return
			}
		}
		x.wrong = writeMessage(h, def.GetSource())
		h.Sum(x.name[:0])
	})
	return x.name, x.wrong
}

// writeText writes texts so that no others are written alike.
func writeText(h hash.Hash, list ...string) {
	for _, s := range list {
		fmt.Fprintf(h, "%d:", len(s))
		h.Write([]byte(s))
	}
}

func writeMessage(h hash.Hash, m proto.Message) error {
	data, err := proto.MarshalOptions{Deterministic: true}.Marshal(m)
	writeText(h, string(data))
	return err
}

// writeMap writes a map in the order of its keys.
func writeMap(h hash.Hash, m map[string]string) {
	writeText(h, fmt.Sprint(len(m)))
	for _, k := range ir.SortedKeys(m) {
		writeText(h, k, m[k])
	}
}

// writeIDs writes what targets declare.
func writeIDs(h hash.Hash, m map[string]declaration) {
	for _, id := range ir.SortedKeys(m) {
		writeText(h, id, fmt.Sprint(m[id].targets))
		writeText(h, m[id].sources...)
	}
	writeText(h, "")
}
