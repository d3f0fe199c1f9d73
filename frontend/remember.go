package frontend

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash"
	"slices"
	"sync"

	"github.com/containerd/platforms"
	"github.com/distribution/reference"
	gateway "github.com/moby/buildkit/frontend/gateway/client"
	gwpb "github.com/moby/buildkit/frontend/gateway/pb"
	"github.com/moby/buildkit/solver/pb"
	"github.com/moby/buildkit/util/apicaps"
	ocispecs "github.com/opencontainers/image-spec/specs-go/v1"
	"github.com/tonistiigi/fsutil/types"
	"google.golang.org/protobuf/proto"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/internal/memory/units"
)

// A unit that was compiled without a node is a function of its inputs, of the files that the
// frontend looked at, and of what the resolver said of images. So it is remembered with
// the answers that the frontend got, and what is remembered counts when each question still
// has the same answer. Units with sources that only a node knows are always compiled.

// keptUnit is a unit in the memory. Values of secrets are in none of it.
type keptUnit struct {
	Files  []fileAnswer  `json:"files,omitempty"`
	Images []imageAnswer `json:"images,omitempty"`

	ExportPlatform ocispecs.Platform `json:"platform"`
	Metadata       map[string][]byte `json:"metadata,omitempty"`
	Warnings       []keptWarning     `json:"warnings,omitempty"`
	Locals         []string          `json:"locals,omitempty"`
	SecretIDs      []string          `json:"secret_ids,omitempty"`
	AgentIDs       []string          `json:"agent_ids,omitempty"`
	Entitlements   []string          `json:"entitlements,omitempty"`
	Devices        []string          `json:"devices,omitempty"`
	Secrets        map[string]Secret `json:"secrets,omitempty"`
	Agents         map[string]ir.SSH `json:"agents,omitempty"`
	Asked          []string          `json:"asked,omitempty"`
	Assumed        []string          `json:"assumed,omitempty"`

	// What follows the rest in its encoding.
	config     []byte // nil is none
	definition []byte // to be encoded
	hasOps     bool   // was decoded with a definition
}

// keptWarning is a remark of the frontend.
type keptWarning struct {
	Message string
	Opts    gateway.WarnOpts
}

// fileAnswer is the answer to a question of the frontend about a file.
type fileAnswer struct {
	Source  string // the name of the local source
	Exclude string `json:",omitempty"` // its attributes
	Follow  string `json:",omitempty"`
	Op      string // read, stat or list
	Path    string
	Offset  int    `json:",omitempty"`
	Length  int    `json:",omitempty"`
	Pattern string `json:",omitempty"`
	Answer  []byte // a digest
}

// imageAnswer is what the resolver said of an image.
type imageAnswer struct {
	Ref      string
	Platform ocispecs.Platform
	Answer   []byte // a digest
}

func newImageAnswer(ref reference.Named, p ocispecs.Platform, img *Image) imageAnswer {
	h := sha256.New()
	writeText(h, img.Digest.String(), string(img.Config), fmt.Sprint(img.Assumed))
	return imageAnswer{ref.String(), p, h.Sum(nil)}
}

// watchedDir is a directory that notes what is asked of it.
type watchedDir struct {
	*dirRef
	recorder *recorder
	source   string
	attrs    map[string]string
}

var _ gateway.Reference = (*watchedDir)(nil)

func (d *watchedDir) note(a fileAnswer, answer any, err error) {
	a.Source, a.Exclude, a.Follow = d.source, d.attrs[pb.AttrExcludePatterns], d.attrs[pb.AttrFollowPaths]
	a.Answer = answerOf(answer, err)
	d.recorder.mu.Lock()
	defer d.recorder.mu.Unlock()
	d.recorder.read = append(d.recorder.read, a)
}

// ReadFile implements gateway.Reference.
func (d *watchedDir) ReadFile(ctx context.Context, req gateway.ReadRequest) ([]byte, error) {
	data, err := d.dirRef.ReadFile(ctx, req)
	a := fileAnswer{Op: "read", Path: req.Filename}
	if req.Range != nil {
		a.Offset, a.Length = req.Range.Offset, req.Range.Length
	}
	d.note(a, data, err)
	return data, err
}

// StatFile implements gateway.Reference.
func (d *watchedDir) StatFile(ctx context.Context, req gateway.StatRequest) (*types.Stat, error) {
	st, err := d.dirRef.StatFile(ctx, req)
	d.note(fileAnswer{Op: "stat", Path: req.Path}, st, err)
	return st, err
}

// ReadDir implements gateway.Reference.
func (d *watchedDir) ReadDir(ctx context.Context, req gateway.ReadDirRequest) ([]*types.Stat, error) {
	list, err := d.dirRef.ReadDir(ctx, req)
	d.note(fileAnswer{Op: "list", Path: req.Path, Pattern: req.IncludePattern}, list, err)
	return list, err
}

// writeStat writes what is known of a file.
func writeStat(h hash.Hash, st *types.Stat) {
	writeText(h, "file", st.Path, fmt.Sprint(st.Mode, st.Size, st.ModTime))
}

// answerOf is a digest of an answer.
func answerOf(answer any, err error) []byte {
	h := sha256.New()
	if err != nil {
		writeText(h, "error", err.Error())
		return h.Sum(nil)
	}
	switch x := answer.(type) {
	case []byte:
		writeText(h, "data", string(x))
	case *types.Stat:
		writeStat(h, x)
	case []*types.Stat:
		for _, st := range x {
			writeStat(h, st)
		}
	}
	return h.Sum(nil)
}

// again returns the present answer.
func (a fileAnswer) again(ctx context.Context, in *inputs) ([]byte, bool) {
	s, ok := in.sources[a.Source]
	if !ok {
		return nil, false
	}
	d, err := newDirRef(s, nil, map[string]string{pb.AttrExcludePatterns: a.Exclude, pb.AttrFollowPaths: a.Follow})
	if err != nil {
		return nil, false
	}
	switch a.Op {
	case "read":
		req := gateway.ReadRequest{Filename: a.Path}
		if a.Offset != 0 || a.Length != 0 {
			req.Range = &gateway.FileRange{Offset: a.Offset, Length: a.Length}
		}
		data, err := d.ReadFile(ctx, req)
		return answerOf(data, err), true
	case "stat":
		st, err := d.StatFile(ctx, gateway.StatRequest{Path: a.Path})
		return answerOf(st, err), true
	case "list":
		list, err := d.ReadDir(ctx, gateway.ReadDirRequest{Path: a.Path, IncludePattern: a.Pattern})
		return answerOf(list, err), true
	}
	return nil, false
}

// commonInputs are the inputs of all units, encoded.
func commonInputs(c *compilation) []byte {
	h := sha256.New()
	writeText(h, c.real, c.dir, c.platform, platforms.FormatAll(platforms.DefaultSpec()), c.Syntax)
	for _, capability := range pb.Caps.All() {
		writeText(h, capability.ID, fmt.Sprint(c.llbCaps.Supports(apicaps.CapID(capability.ID)) == nil))
	}
	for _, capability := range gwpb.Caps.All() {
		writeText(h, capability.ID)
	}
	writeText(h, fmt.Sprint(c.ids.targets))
	writeIDs(h, c.ids.secrets)
	writeIDs(h, c.ids.ssh)
	return h.Sum(nil)
}

// encode returns all that the unit is compiled from, encoded; nil when it is not to be remembered.
func (in *inputs) encode(c *compilation) ([]byte, error) {
	if c.Units == nil || len(in.defs) > 0 || len(in.ociStores) > 0 || in.dockerfileURL != "" || in.attrs["context"] != "" {
		return nil, nil
	}
	h := sha256.New()
	h.Write(c.common)
	writeText(h, string(in.unit.ID), in.unit.Platform, platforms.FormatAll(in.platform), in.dockerfilePath, in.dockerfileRoot, fmt.Sprint(in.inline))
	declared, err := json.Marshal([]any{in.unit.Target.Secrets, in.unit.Target.SSH})
	if err != nil {
		return nil, fmt.Errorf("secrets of target %s: %w", in.unit.Target.Name, err)
	}
	writeText(h, string(declared))
	writeMap(h, in.attrs)
	writeMap(h, in.rename)
	for _, name := range ir.SortedKeys(in.sources) {
		src := in.sources[name]
		writeText(h, name, src.dir)
		for _, file := range ir.SortedKeys(src.files) {
			writeText(h, file, string(src.files[file]))
		}
		writeText(h, "")
	}
	for _, name := range ir.SortedKeys(in.linked) {
		of, err := c.marked.nameOf(in.linked[name])
		if err != nil {
			return nil, fmt.Errorf("result of linked target %s: %w", in.linked[name].Target.Name, err)
		}
		writeText(h, name, string(of[:]))
	}
	return h.Sum(nil), nil
}

// packed is the definition of a unit, small: of a large project it is most of what compiled
// units take of memory.
type packed struct {
	unit     units.Packed // a [keptUnit], encoded
	unpacker *unpacker
}

// unpacker unpacks units. It is safe for concurrent use.
type unpacker struct {
	parts   parts
	buffers sync.Pool // of *[]byte
}

func newUnpacker(caps *capSets) *unpacker {
	return &unpacker{parts: parts{caps: caps, metadata: map[form]*pb.OpMetadata{}, places: map[form]*pb.Locations{}}}
}

// data calls use with the encoding of a unit, which use must not keep.
func (u *unpacker) data(unit units.Packed, use func([]byte) error) error {
	buf, ok := u.buffers.Get().(*[]byte)
	if !ok {
		buf = new([]byte)
	}
	defer u.buffers.Put(buf)
	data, err := unit.Unpack(*buf)
	if err != nil {
		return err
	}
	*buf = data
	return use(data)
}

// definition returns what is packed.
func (p *packed) definition() (def *pb.Definition, err error) {
	err = p.unpacker.data(p.unit, func(data []byte) error {
		_, _, definition, err := divideKept(data)
		if err != nil {
			return err
		}
		def, err = p.unpacker.parts.decode(definition)
		return err
	})
	if err != nil {
		return nil, err
	}
	return def, nil
}

// LLB returns the definition of u, which is not to be changed. It is decoded each time that
// it is asked for, unless the field holds it.
func (u *Unit) LLB() (*pb.Definition, error) {
	if u.Definition != nil || u.packed == nil {
		return u.Definition, nil
	}
	def, err := u.packed.definition()
	if err != nil {
		return nil, fmt.Errorf("definition of unit %s: %w", u.ID, err)
	}
	return def, nil
}

// IsEmpty reports whether the result of u has no content.
func (u *Unit) IsEmpty() bool { return u.packed == nil && len(u.Definition.GetDef()) == 0 }

// keep remembers a unit that was compiled without a node. It returns the definition packed,
// nil where it is not.
func (r *recorder) keep(c *compilation, u *Unit, made *origin, key []byte) *packed {
	if key == nil || made.needs.moving || len(u.Attestations) > 0 || u.Frontend != "" {
		return nil
	}
	k := &keptUnit{
		Files: r.read, Images: r.asked,
		ExportPlatform: u.ExportPlatform, Metadata: u.Metadata,
		Locals: ir.SortedKeys(made.needs.locals), SecretIDs: ir.SortedKeys(made.needs.secrets), AgentIDs: ir.SortedKeys(made.needs.agents),
		Entitlements: u.Entitlements, Devices: u.Devices, Secrets: made.secrets, Agents: made.agents,
		Asked: made.images, Assumed: made.assumed, config: u.Config,
	}
	for _, w := range r.warnings {
		k.Warnings = append(k.Warnings, keptWarning{w.message, w.opts})
	}
	var err error
	if k.definition, err = (proto.MarshalOptions{Deterministic: true}).Marshal(u.Definition); err != nil {
		return nil // it is compiled again
	}
	data, err := k.encode()
	if err != nil {
		return nil
	}
	unit := c.Units.Put(key, data)
	if unit == nil || u.IsEmpty() {
		return nil
	}
	return &packed{unit, c.unpacker}
}

// recallUnit returns a unit that is remembered, nil when it has to be compiled. Its definition
// is packed.
func (c *compilation) recallUnit(ctx context.Context, in *inputs, key []byte) *Unit {
	if key == nil {
		return nil
	}
	unit, ok := c.Units.Get(key)
	if !ok {
		return nil
	}
	var k *keptUnit
	err := c.unpacker.data(unit, func(data []byte) (err error) {
		k, err = decodeKept(data)
		return err
	})
	if err != nil || !k.holds(ctx, c, in) {
		return nil
	}
	u := newUnit(in)
	u.ExportPlatform, u.Config = k.ExportPlatform, k.config
	if len(k.Metadata) > 0 {
		u.Metadata = k.Metadata
	}
	if k.hasOps {
		u.packed = &packed{unit, c.unpacker}
	} else {
		u.Definition = &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}
	}
	made := &origin{
		needs: &facts{
			locals: setOf(k.Locals), stores: map[string]bool{}, secrets: setOf(k.SecretIDs), agents: setOf(k.AgentIDs),
			entitlements: setOf(k.Entitlements), devices: setOf(k.Devices),
		},
		secrets: k.Secrets, agents: k.Agents, images: k.Asked, assumed: k.Assumed,
	}
	u.Images, u.Assumed = slices.Clone(made.images), slices.Clone(made.assumed)
	if err := u.take(in, made); err != nil {
		return nil
	}
	var remarks []recordedWarning
	for _, w := range k.Warnings {
		remarks = append(remarks, recordedWarning{w.Message, w.Opts})
	}
	u.Warnings = c.warnings(in, remarks)
	return u
}

func setOf(list []string) map[string]bool {
	m := make(map[string]bool, len(list))
	for _, s := range list {
		m[s] = true
	}
	return m
}

// holds reports whether all questions of the frontend still have the same answers.
func (k *keptUnit) holds(ctx context.Context, c *compilation, in *inputs) bool {
	for _, a := range k.Files {
		now, ok := a.again(ctx, in)
		if !ok || string(now) != string(a.Answer) {
			return false
		}
	}
	for _, a := range k.Images {
		named, err := reference.ParseNormalizedNamed(a.Ref)
		if err != nil {
			return false
		}
		img, err := c.Resolver.Resolve(ctx, ImageRequest{Ref: named, Platform: a.Platform})
		if err != nil || string(newImageAnswer(named, a.Platform, img).Answer) != string(a.Answer) {
			return false // the compilation says what is wrong
		}
	}
	return true
}

// encode returns k as JSON, the config and the definition, each with its length before it.
func (k *keptUnit) encode() ([]byte, error) {
	head, err := json.Marshal(k)
	if err != nil {
		return nil, err
	}
	b := make([]byte, 0, len(head)+len(k.config)+len(k.definition)+32)
	b = append(binary.AppendUvarint(b, uint64(len(head))), head...)
	if k.config == nil {
		b = binary.AppendUvarint(b, 0)
	} else {
		b = append(binary.AppendUvarint(b, uint64(len(k.config))+1), k.config...)
	}
	return append(b, k.definition...), nil
}

var errKept = errors.New("malformed unit")

func decodeKept(data []byte) (*keptUnit, error) {
	head, config, definition, err := divideKept(data)
	if err != nil {
		return nil, err
	}
	k := &keptUnit{}
	if err := json.Unmarshal(head, k); err != nil {
		return nil, err
	}
	k.config, k.hasOps = bytes.Clone(config), len(definition) > 0
	return k, nil
}

// divideKept returns the parts of an encoded unit; config is nil where there is none.
func divideKept(data []byte) (head, config, definition []byte, err error) {
	part := func(less uint64) ([]byte, bool) {
		n, used := binary.Uvarint(data)
		if used <= 0 || n < less {
			return nil, false
		}
		n -= less
		data = data[used:]
		if n > uint64(len(data)) {
			return nil, false
		}
		out := data[:n:n]
		data = data[n:]
		return out, true
	}
	head, ok := part(0)
	if !ok {
		return nil, nil, nil, errKept
	}
	if len(data) > 0 && data[0] == 0 {
		data = data[1:]
	} else if config, ok = part(1); !ok {
		return nil, nil, nil, errKept
	}
	return head, config, data, nil
}
