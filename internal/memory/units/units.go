// Package units remembers, from run to run, what was made of inputs that have not changed,
// as the LLB of a unit.
//
// A [Store] is one file for each project. What it holds of some inputs is sealed with a key
// that is made of these inputs, and found by a digest of them: values that stand in both, as
// build arguments do, can be read by nobody who does not have them. The seal also shows
// damage, which counts as nothing remembered. What another program made is not used, as it
// might make something else: a program is known by its version and its file.
//
// Of a file that would be larger than [Limit], what was not used for longest goes first.
package units

import (
	"bytes"
	"cmp"
	"crypto/aes"
	"crypto/cipher"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	"github.com/klauspost/compress/zstd"

	"github.com/dbake/dbake/internal/memory/folder"
)

// Limit bounds the file of a project, in bytes.
const Limit = 64 << 20

// format begins a file. Entries follow: an id, the day of the last use, the length and the
// bytes of what is sealed.
const format = "dbake-units/2\n"

// head is the size of an entry without what is sealed.
const head = sha256.Size + 4 + 4

// Store holds what is remembered of a project. It is safe for concurrent use.
type Store struct {
	folder  folder.Folder
	name    string
	program []byte
	limit   int
	load    sync.Once

	mu      sync.Mutex
	entries map[id]entry // guarded by mu
	dirty   bool         // differs from the file; guarded by mu
}

// id is a digest of inputs.
type id [sha256.Size]byte

type entry struct {
	day    uint32 // of the last use, since 1970
	sealed []byte
}

// Open returns the store of a project in dir, which need not exist; "" is one that is kept
// nowhere. now is the time of this run.
func Open(dir, project string, now time.Time) *Store {
	sum := sha256.Sum256([]byte(project))
	return &Store{
		folder:  folder.Folder{Dir: dir, Limit: 2 * Limit, Now: func() time.Time { return now }},
		name:    hex.EncodeToString(sum[:12]),
		program: program(),
		limit:   Limit,
	}
}

// program identifies the running program; nil is not known.
func program() []byte {
	path, err := os.Executable()
	if err != nil {
		return nil
	}
	info, err := os.Stat(path)
	if err != nil {
		return nil
	}
	text := fmt.Appendf(nil, "%q %d %d", path, info.Size(), info.ModTime().UnixNano())
	if build, ok := debug.ReadBuildInfo(); ok {
		text = append(text, build.String()...)
	}
	return text
}

// on reports whether anything is kept.
func (s *Store) on() bool { return s != nil && s.folder.Dir != "" && s.program != nil }

// Packed is data in the form in which a store holds it, a third of its size.
type Packed []byte

// Unpack returns the data, in the place of buf where that is large enough.
func (p Packed) Unpack(buf []byte) ([]byte, error) { return unpacker().DecodeAll(p, buf[:0]) }

// Get returns what was made of some inputs.
func (s *Store) Get(inputs []byte) (made Packed, ok bool) {
	if !s.on() {
		return nil, false
	}
	s.load.Do(s.read)
	key := s.key(inputs)
	s.mu.Lock()
	e, ok := s.entries[key.id()]
	if ok && e.day != s.day() {
		e.day, s.dirty = s.day(), true
		s.entries[key.id()] = e
	}
	s.mu.Unlock()
	if !ok {
		return nil, false
	}
	return key.open(e.sealed)
}

// Put notes what was made of some inputs, and returns it packed; nil is not kept.
func (s *Store) Put(inputs, data []byte) Packed {
	if !s.on() || len(data) > s.limit/16 {
		return nil
	}
	s.load.Do(s.read)
	key := s.key(inputs)
	packed := packer().EncodeAll(data, nil)
	sealed := key.seal(packed)
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries[key.id()] = entry{s.day(), sealed}
	s.dirty = true
	return packed
}

// Save writes what is new, and forgets all: nothing is remembered by this store from then
// on. Of several processes that save at a time the last one wins.
func (s *Store) Save() error {
	if !s.on() {
		return nil
	}
	s.load.Do(s.read)
	s.mu.Lock()
	defer s.mu.Unlock()
	entries, dirty := s.entries, s.dirty
	s.entries, s.dirty = map[id]entry{}, false
	if !dirty {
		return nil
	}
	if err := s.folder.Write(s.name, s.encode(entries)); err != nil {
		return fmt.Errorf("remember what Dockerfiles were compiled to: %w", err)
	}
	return nil
}

// encode returns the file of some entries, those that were used last first.
func (s *Store) encode(entries map[id]entry) []byte {
	ids := make([]id, 0, len(entries))
	size := len(format)
	for k, e := range entries {
		ids = append(ids, k)
		size += head + len(e.sealed)
	}
	slices.SortFunc(ids, func(a, b id) int {
		return cmp.Or(cmp.Compare(entries[b].day, entries[a].day), bytes.Compare(a[:], b[:]))
	})
	b := make([]byte, 0, min(size, s.limit))
	b = append(b, format...)
	oldest := int64(s.day()) - int64(folder.Keep/(24*time.Hour))
	for _, k := range ids {
		e := entries[k]
		if len(b)+head+len(e.sealed) > s.limit || int64(e.day) < oldest {
			break
		}
		b = append(b, k[:]...)
		b = binary.BigEndian.AppendUint32(b, e.day)
		b = binary.BigEndian.AppendUint32(b, uint32(len(e.sealed)))
		b = append(b, e.sealed...)
	}
	return b
}

// read reads the file. What is damaged in it, and all that follows, is left out.
func (s *Store) read() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.entries = map[id]entry{}
	data, err := s.folder.Read(s.name)
	if err != nil {
		return // it is made anew
	}
	rest, ok := bytes.CutPrefix(data, []byte(format))
	for ok && len(rest) >= head {
		var k id
		copy(k[:], rest)
		day, size := binary.BigEndian.Uint32(rest[len(k):]), binary.BigEndian.Uint32(rest[len(k)+4:])
		rest = rest[head:]
		if uint64(size) > uint64(len(rest)) {
			return
		}
		s.entries[k] = entry{day, rest[:size:size]}
		rest = rest[size:]
	}
}

func (s *Store) day() uint32 {
	return uint32(s.folder.Now().Unix() / (24 * 60 * 60))
}

// secret is what the id of inputs and the key of their seal are made of.
type secret [sha256.Size]byte

func (s *Store) key(inputs []byte) secret {
	h := sha256.New()
	var size [8]byte
	binary.BigEndian.PutUint64(size[:], uint64(len(s.program)))
	h.Write(size[:])
	h.Write(s.program)
	h.Write(inputs)
	return secret(h.Sum(nil))
}

func (k secret) derive(what string) [sha256.Size]byte {
	return sha256.Sum256(append([]byte(what+"\x00"), k[:]...))
}

func (k secret) id() id { return k.derive("id") }

// aead is the seal: each key is that of one set of inputs.
func (k secret) aead() cipher.AEAD {
	key := k.derive("seal")
	block, err := aes.NewCipher(key[:])
	if err != nil {
		panic(err) // the key has the right size
	}
	aead, err := cipher.NewGCMWithRandomNonce(block)
	if err != nil {
		panic(err) // the block has the right size
	}
	return aead
}

func (k secret) seal(data []byte) []byte {
	aead := k.aead()
	return aead.Seal(make([]byte, 0, len(data)+aead.Overhead()), nil, data, nil)
}

func (k secret) open(sealed []byte) ([]byte, bool) {
	data, err := k.aead().Open(nil, nil, sealed, nil)
	return data, err == nil
}

// packer makes data small before it is sealed: LLB names each digest several times.
var packer = sync.OnceValue(func() *zstd.Encoder {
	e, err := zstd.NewWriter(nil, zstd.WithEncoderLevel(zstd.SpeedFastest), zstd.WithWindowSize(256<<10), zstd.WithLowerEncoderMem(true), zstd.WithEncoderCRC(false))
	if err != nil {
		panic(err) // the options are right
	}
	return e
})

// unpacker is the reverse, of what is no larger than may be kept.
var unpacker = sync.OnceValue(func() *zstd.Decoder {
	d, err := zstd.NewReader(nil, zstd.WithDecoderLowmem(true), zstd.WithDecoderMaxMemory(Limit))
	if err != nil {
		panic(err) // the options are right
	}
	return d
})
