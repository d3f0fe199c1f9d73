package engine

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/dbake/dbake/internal/memory/folder"
	"github.com/dbake/dbake/runtime/daemon"
	"github.com/dbake/dbake/runtime/local"
	"github.com/dbake/dbake/runtime/nodeset"
)

// drainMarks are the nodes that the user wants to go: a file in the state directory, which
// runs in progress and later ones see.
type drainMarks struct{ folder folder.Folder }

// marksFile is its name, maxMarks what is read of it.
const (
	marksFile = "drained.json"
	maxMarks  = 1 << 20
)

// drainMarks returns the marks in a state directory; "" is the default one. Without one there
// are none.
func (n *Nodes) drainMarks() drainMarks {
	dir := n.StateDir
	if dir == "" {
		dir, _ = local.DefaultStateDir() // whoever keeps something there reports why
	}
	return drainMarks{folder.Folder{Dir: dir, Limit: maxMarks}}
}

// read returns the addresses of the nodes, with when they were marked.
func (m drainMarks) read() (map[string]time.Time, error) {
	if m.folder.Dir == "" {
		return nil, nil
	}
	data, err := m.folder.Read(marksFile)
	if err != nil {
		return nil, err
	}
	return m.decode(data)
}

// decode reads the content of the file.
func (m drainMarks) decode(data []byte) (map[string]time.Time, error) {
	marked := map[string]time.Time{}
	if len(data) == 0 {
		return marked, nil
	}
	if err := json.Unmarshal(data, &marked); err != nil {
		return nil, fmt.Errorf("%s is damaged: %w; remove it", m.folder.Path(marksFile), err)
	}
	if marked == nil { // null
		marked = map[string]time.Time{}
	}
	return marked, nil
}

// has reports whether the node at an address is marked. What cannot be read marks nothing.
func (m drainMarks) has(addr string) bool {
	marked, err := m.read()
	_, ok := marked[addr]
	return err == nil && ok
}

// set marks nodes, or removes their marks.
func (m drainMarks) set(addrs []string, on bool, now time.Time) error {
	if m.folder.Dir == "" {
		return errors.New("there is no state directory to note it in; give --state-dir")
	}
	err := m.folder.Update(marksFile, func(old []byte) ([]byte, error) {
		marked, err := m.decode(old)
		if err != nil {
			return nil, err
		}
		for _, addr := range addrs {
			if delete(marked, addr); on {
				marked[addr] = now.UTC().Truncate(time.Second)
			}
		}
		return json.Marshal(marked)
	})
	if err != nil {
		return fmt.Errorf("note which nodes are drained: %w", err)
	}
	return nil
}

// Drain notes that nodes of a choice are to go or, with on false, to stay. Each is named by
// its name or address.
func (e *Engine) Drain(ctx context.Context, choice Nodes, names []string, on bool) error {
	choice.Drained = true
	n, err := e.findNodes(ctx, choice)
	if err != nil {
		return err
	}
	var addrs []string
	for _, name := range names {
		i := slices.IndexFunc(n.specs, func(s nodeset.Spec) bool { return s.Name == name || s.Addr == name })
		if i < 0 {
			var known []string
			for _, s := range n.specs {
				known = append(known, s.Name)
			}
			return fmt.Errorf("there is no node %s; a build with these flags would use %s", name, strings.Join(known, ", "))
		}
		addrs = append(addrs, n.specs[i].Addr)
	}
	return choice.drainMarks().set(addrs, on, time.Now())
}

// spare leaves out the nodes that are marked. One node must be left.
func (n *nodes) spare() error {
	marked, err := n.choice.drainMarks().read()
	if err != nil {
		n.warn(err.Error())
	}
	kept := slices.DeleteFunc(slices.Clone(n.specs), func(s nodeset.Spec) bool { _, ok := marked[s.Addr]; return ok })
	if len(kept) == 0 && len(n.specs) > 0 {
		return fmt.Errorf("every node is drained: %s; \"dbake nodes undrain %s\" has one used again", strings.Join(slices.Sorted(maps.Keys(marked)), ", "), n.specs[0].Name)
	}
	for _, s := range n.specs {
		if _, ok := marked[s.Addr]; ok {
			n.note(fmt.Sprintf("node %s is drained, and gets no work", s.Name))
		}
	}
	n.specs = kept
	return nil
}

// leaveDrained leaves out the nodes of f whose label says that they are to go, and reports
// whether there were any. One node must be left.
func leaveDrained(s *standby, f *facts) (changed bool, err error) {
	if len(f.draining) == 0 {
		return false, nil
	}
	if len(f.draining) == len(s.nodes.specs) {
		return false, fmt.Errorf("every node is to go: the label dbake.drain of %s says so", strings.Join(f.draining, ", "))
	}
	for _, name := range f.draining {
		s.engine.Report.Note(fmt.Sprintf("node %s is drained by its label dbake.drain, and gets no work", name))
	}
	s.leaveOut(f.draining)
	return true, nil
}

// drained reports whether the user wants a node to go, for a run in progress.
func (n *nodes) drained(info daemon.NodeInfo) bool { return n.choice.drainMarks().has(info.Addr) }
