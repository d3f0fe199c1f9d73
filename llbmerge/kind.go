package llbmerge

import (
	"strings"

	"github.com/moby/buildkit/solver/pb"
)

// Kind is the kind of a vertex.
type Kind uint8

// The kinds of vertices. KindUnknown stands for ops that this version of BuildKit's
// protocol does not know.
const (
	KindUnknown Kind = iota
	KindImage
	KindLocal
	KindGit
	KindHTTP
	KindOCILayout
	KindBlob
	KindExec
	KindFile
	KindMerge
	KindDiff
	KindBuild
	KindPassthrough
)

var kindNames = [...]string{
	KindUnknown:     "unknown",
	KindImage:       "image",
	KindLocal:       "local",
	KindGit:         "git",
	KindHTTP:        "http",
	KindOCILayout:   "oci-layout",
	KindBlob:        "blob",
	KindExec:        "exec",
	KindFile:        "file",
	KindMerge:       "merge",
	KindDiff:        "diff",
	KindBuild:       "build",
	KindPassthrough: "passthrough",
}

// String returns the name of k in lower case.
func (k Kind) String() string {
	if int(k) < len(kindNames) {
		return kindNames[k]
	}
	return kindNames[KindUnknown]
}

// IsSource reports whether a vertex of this kind brings something in from outside
// the graph.
func (k Kind) IsSource() bool {
	switch k {
	case KindImage, KindLocal, KindGit, KindHTTP, KindOCILayout, KindBlob:
		return true
	}
	return false
}

// IsStep reports whether a vertex of this kind works on the results of others, or
// makes something out of nothing: everything but sources and joins.
func (k Kind) IsStep() bool {
	switch k {
	case KindExec, KindFile, KindMerge, KindDiff, KindBuild:
		return true
	}
	return false
}

func kindOf(op *pb.Op) Kind {
	switch o := op.Op.(type) {
	case *pb.Op_Source:
		return sourceKind(o.Source.GetIdentifier())
	case *pb.Op_Exec:
		return KindExec
	case *pb.Op_File:
		return KindFile
	case *pb.Op_Merge:
		return KindMerge
	case *pb.Op_Diff:
		return KindDiff
	case *pb.Op_Build:
		return KindBuild
	case *pb.Op_Passthrough:
		return KindPassthrough
	}
	return KindUnknown
}

func sourceKind(identifier string) Kind {
	scheme, _, _ := strings.Cut(identifier, "://")
	switch scheme {
	case "docker-image":
		return KindImage
	case "local":
		return KindLocal
	case "git":
		return KindGit
	case "http", "https":
		return KindHTTP
	case "oci-layout":
		return KindOCILayout
	case "docker-image+blob", "oci-layout+blob":
		return KindBlob
	}
	return KindUnknown
}
