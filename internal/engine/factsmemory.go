package engine

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/platforms"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	apicapspb "github.com/moby/buildkit/util/apicaps/pb"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/dbake/dbake/internal/memory/folder"
	"github.com/dbake/dbake/runtime/daemon"
)

// maxFacts bounds the file that facts are kept in.
const maxFacts = 1 << 20

// keptFacts are the facts that Dockerfiles were compiled for when these nodes were last
// asked.
type keptFacts struct {
	Addrs    []string          `json:"addrs"`
	Platform ocispecs.Platform `json:"platform"`
	// Caps are the ids of the LLB capabilities that all nodes have. Asked identifies the question:
	// these nodes in their versions, and the capabilities that were known; "" when it cannot.
	Caps  []string `json:"caps"`
	Asked string   `json:"asked,omitempty"`
	// OwnStore are the names of the Docker engines that keep images in a store of their
	// own.
	OwnStore []string `json:"own_store,omitempty"`
	// HostGateway is what "host-gateway" stands for on all nodes.
	HostGateway string `json:"host_gateway,omitempty"`
}

// factsFile is where the facts of nodes are kept.
func (s *standby) factsFile() (dir folder.Folder, name string, addrs []string) {
	return s.engine.poolFile(s.nodes, "facts", maxFacts)
}

// poolFile is where something is remembered of nodes that are used together, in a folder of
// the memory: a file of at most limit bytes, for their addresses in this order.
func (e *Engine) poolFile(n *nodes, what string, limit int64) (dir folder.Folder, name string, addrs []string) {
	for _, spec := range n.specs {
		addrs = append(addrs, spec.Addr)
	}
	sum := sha256.Sum256([]byte(strings.Join(addrs, "\n")))
	return folder.Folder{Dir: e.memory.Dir(what), Limit: limit}, hex.EncodeToString(sum[:12]) + ".json", addrs
}

// keepFacts remembers the facts that Dockerfiles are compiled for with these nodes.
func (s *standby) keepFacts(f *facts) {
	dir, name, addrs := s.factsFile()
	if dir.Dir == "" {
		return
	}
	kept := keptFacts{Addrs: addrs, Platform: f.platform, Caps: capIDs(f.caps), OwnStore: f.withOwnStore, HostGateway: f.hostGateway}
	if f.pool != nil {
		kept.Asked = capsQuestion(f.pool.Nodes())
	}
	data, err := json.Marshal(kept)
	if err == nil {
		if old, readErr := dir.Read(name); readErr == nil && string(old) == string(data) {
			return
		}
		err = dir.Write(name, data)
	}
	if err != nil {
		s.engine.memory.Forgets(fmt.Errorf("remember what nodes are: %w", err))
	}
}

// readFacts returns the facts that were kept of the nodes of s; false when there are none.
func readFacts(s *standby) (kept keptFacts, ok bool) {
	dir, name, addrs := s.factsFile()
	if dir.Dir == "" {
		return kept, false
	}
	data, err := dir.Read(name)
	if err == nil && data == nil {
		return kept, false
	}
	if err == nil {
		err = json.Unmarshal(data, &kept)
	}
	if err != nil {
		s.engine.memory.Forgets(fmt.Errorf("read what nodes are: %w", err))
		return kept, false
	}
	return kept, slices.Equal(kept.Addrs, addrs) && kept.Platform.OS != ""
}

// capsQuestion identifies what nodes were asked about their capabilities: a daemon of the same
// version gives the same answer. It is "" when the version of one of them is not known, as with
// a daemon that was built without one.
func capsQuestion(nodes []daemon.NodeInfo) string {
	lines := capIDs(nil)
	for _, n := range nodes {
		if n.ID == "" || n.Version == "" || strings.Contains(n.Version, "unknown") {
			return ""
		}
		lines = append(lines, fmt.Sprintf("%s %s %s %t", n.ID, n.Version, n.EngineID, n.OwnStore))
	}
	sum := sha256.Sum256([]byte(strings.Join(lines, "\n")))
	return hex.EncodeToString(sum[:])
}

// capsOf returns the capabilities that nodes had when they were last asked; nil when they have
// to be asked again.
func (k *keptFacts) capsOf(nodes []daemon.NodeInfo) *apicaps.CapSet {
	if k.Asked == "" || k.Asked != capsQuestion(nodes) {
		return nil
	}
	return capSet(k.Caps)
}

// recallFacts fills in the last known facts of nodes that are not asked.
func (s *standby) recallFacts(f *facts) bool {
	kept, ok := readFacts(s)
	if !ok {
		return false
	}
	f.platform, f.caps, f.withOwnStore, f.hostGateway = kept.Platform, capSet(kept.Caps), kept.OwnStore, kept.HostGateway
	return true
}

// capIDs returns the ids of the capabilities in a set; those of this release for nil.
func capIDs(set *apicaps.CapSet) []string {
	var ids []string
	for _, c := range pb.Caps.All() {
		if set == nil || set.Supports(apicaps.CapID(c.ID)) == nil {
			ids = append(ids, c.ID)
		}
	}
	slices.Sort(ids)
	return ids
}

// capSet returns the set with these ids.
func capSet(ids []string) *apicaps.CapSet {
	var list []*apicapspb.APICap
	for _, c := range pb.Caps.All() {
		if slices.Contains(ids, c.ID) {
			list = append(list, c)
		}
	}
	set := pb.Caps.CapSet(list)
	return &set
}

// compiles reports whether Dockerfiles compile for f to the same as for other.
func (f *facts) compiles(other *facts) bool {
	native := func(p ocispecs.Platform) string {
		if p.OS == "" {
			p = platforms.DefaultSpec()
		}
		return platforms.FormatAll(platforms.Normalize(p))
	}
	return f.ownStore() == other.ownStore() && native(f.platform) == native(other.platform) && slices.Equal(capIDs(f.caps), capIDs(other.caps))
}
