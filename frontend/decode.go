package frontend

import (
	"bytes"
	"crypto/sha256"
	"sync"

	"github.com/moby/buildkit/solver/pb"
	"google.golang.org/protobuf/encoding/protowire"
)

// parts are what the definitions of many units have in common apart from their ops: what is
// said of an op, and where it stands in its Dockerfile. Of equal ones there is one, and it is
// decoded once. It is safe for concurrent use.
type parts struct {
	caps *capSets

	mu       sync.Mutex
	metadata map[form]*pb.OpMetadata // guarded by mu, as the next
	places   map[form]*pb.Locations
}

// form is a digest of an encoding. Encodings of equal parts are equal, see [recorder.keep].
type form [sha256.Size]byte

// The numbers of the fields that are read here.
const (
	fieldOps        = 1 // of pb.Definition, with the next two
	fieldMetadata   = 2
	fieldSource     = 3
	fieldLocations  = 1 // of pb.Source, with the next
	fieldInfos      = 2
	fieldName       = 1 // of pb.SourceInfo, with the next three
	fieldData       = 2
	fieldDefinition = 3
	fieldLanguage   = 4
	fieldKey        = 1 // of an entry of a map, with the next
	fieldValue      = 2
)

// decode decodes a definition. Nothing in it is to be changed, and it keeps nothing of data.
func (p *parts) decode(data []byte) (*pb.Definition, error) {
	def := &pb.Definition{Metadata: map[string]*pb.OpMetadata{}}
	err := fields(data, func(number protowire.Number, value []byte) (err error) {
		switch number {
		case fieldOps:
			def.Def = append(def.Def, bytes.Clone(value))
		case fieldMetadata:
			err = entry(value, def.Metadata, func(value []byte) (*pb.OpMetadata, error) {
				return share(p, p.metadata, value, func(md *pb.OpMetadata) error {
					err := md.UnmarshalVT(value)
					md.Caps = p.caps.share(md.Caps)
					return err
				})
			})
		case fieldSource:
			def.Source = &pb.Source{Locations: map[string]*pb.Locations{}}
			err = p.source(value, def.Source)
		default:
			err = errKept
		}
		return err
	})
	return def, err
}

// source decodes the source map of a definition.
func (p *parts) source(data []byte, src *pb.Source) error {
	return fields(data, func(number protowire.Number, value []byte) error {
		switch number {
		case fieldLocations:
			return entry(value, src.Locations, func(value []byte) (*pb.Locations, error) {
				return share(p, p.places, value, func(l *pb.Locations) error { return l.UnmarshalVT(value) })
			})
		case fieldInfos:
			info, err := p.info(value)
			src.Infos = append(src.Infos, info)
			return err
		}
		return errKept
	})
}

// info decodes a file of a source map, and the definition of where it is from.
func (p *parts) info(data []byte) (*pb.SourceInfo, error) {
	info := &pb.SourceInfo{}
	err := fields(data, func(number protowire.Number, value []byte) (err error) {
		switch number {
		case fieldName:
			info.Filename = string(value)
		case fieldData:
			info.Data = bytes.Clone(value)
		case fieldDefinition:
			info.Definition, err = p.decode(value)
		case fieldLanguage:
			info.Language = string(value)
		default:
			err = errKept
		}
		return err
	})
	return info, err
}

// share returns the part that is encoded as data, one of known if it is among them.
func share[T any](p *parts, known map[form]*T, data []byte, decode func(*T) error) (*T, error) {
	sum := form(sha256.Sum256(data))
	p.mu.Lock()
	defer p.mu.Unlock()
	if have, ok := known[sum]; ok {
		return have, nil
	}
	part := new(T)
	if err := decode(part); err != nil {
		return nil, err
	}
	known[sum] = part
	return part, nil
}

// fields calls f for each field of a message, all of which have a length.
func fields(data []byte, f func(protowire.Number, []byte) error) error {
	for len(data) > 0 {
		number, kind, used := protowire.ConsumeTag(data)
		if used < 0 || kind != protowire.BytesType {
			return errKept
		}
		value, more := protowire.ConsumeBytes(data[used:])
		if more < 0 {
			return errKept
		}
		if err := f(number, value); err != nil {
			return err
		}
		data = data[used+more:]
	}
	return nil
}

// entry adds an entry of a map of messages to m.
func entry[T any](data []byte, m map[string]T, decode func([]byte) (T, error)) error {
	var key, value []byte // which may be missing when they are empty
	err := fields(data, func(number protowire.Number, field []byte) error {
		switch number {
		case fieldKey:
			key = field
		case fieldValue:
			value = field
		default:
			return errKept
		}
		return nil
	})
	if err == nil {
		m[string(key)], err = decode(value)
	}
	return err
}
