package runs

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"fmt"
	"path"
	"slices"
	"strings"
)

// Recipe lists the parts of a step, or of a source that steps stand on. Values that may be
// secret, and files, stand there as hashes that only the machine that wrote them can make
// again: see [Hasher].
type Recipe struct {
	Name   string `json:"name"`
	Source bool   `json:"source,omitempty"` // an image, a repository or a URL
	// Stage is the stage of the Dockerfile and the platform that the step names, Text
	// the step without its number.
	Stage   string   `json:"stage,omitempty"`
	Text    string   `json:"text,omitempty"`
	Targets []string `json:"targets"`
	Inputs  []int    `json:"inputs,omitempty"` // places of recipes, each before this one
	Parts   []Part   `json:"parts,omitempty"`
	Files   []int    `json:"files,omitempty"` // places of [Run.Files]
	// Hash covers the parts, the files, and the hashes of the inputs.
	Hash string `json:"hash"`
	// Anew is set when the step has to run even if its result is known.
	Anew bool `json:"anew,omitempty"`
}

// Part is one thing that determines a step.
type Part struct {
	Kind PartKind `json:"kind"`
	Name string   `json:"name,omitempty"`
	// Value is the value of the part, where that may be shown; Hash stands for it.
	Value string `json:"value,omitempty"`
	Hash  string `json:"hash"`
}

// PartKind is the kind of a part.
type PartKind string

// The kinds of parts.
const (
	PartCommand  PartKind = "command" // what is run, or done to files
	PartArg      PartKind = "arg"     // a build argument, by name
	PartEnv      PartKind = "env"     // a variable of the environment, by name
	PartSecret   PartKind = "secret"  // where a secret is mounted, by its id; never its value
	PartSSH      PartKind = "ssh"     // where an agent is mounted
	PartMount    PartKind = "mount"   // another mount, by where it is
	PartSetting  PartKind = "setting" // user, directory, network and the like, by name
	PartPlatform PartKind = "platform"
	PartSource   PartKind = "source" // the image, repository or URL
)

// FileSet is the set of files that a step reads of one directory.
type FileSet struct {
	// Dir is the directory, relative to that of the project, with slashes.
	Dir string `json:"dir"`
	// Files are the hashes of files by their paths below Dir: of their content, a dot,
	// and of their modes. It is nil when there were too many to be named.
	Files map[string]string `json:"files,omitempty"`
	Count int               `json:"count"`
	Hash  string            `json:"hash"` // of the whole set
}

// path is the name of a file of the set for people.
func (s FileSet) path(name string) string { return path.Join(s.Dir, name) }

// Hasher makes keyed hashes: a value that is easily guessed, such as a password or a
// version, cannot be found by hashing guesses.
type Hasher struct{ key []byte }

// NewHasher returns a hasher with a key.
func NewHasher(key []byte) Hasher { return Hasher{key} }

// hashed is how many bytes of a hash are kept.
const hashed = 9

// Sum returns the hash of some values.
func (h Hasher) Sum(values ...string) string { return h.short(hashed, values...) }

func (h Hasher) short(n int, values ...string) string {
	m := hmac.New(sha256.New, h.key)
	for _, v := range values {
		fmt.Fprintf(m, "%d ", len(v))
		m.Write([]byte(v))
	}
	return base64.RawURLEncoding.EncodeToString(m.Sum(nil)[:n])
}

// File returns the hash of a file in a [FileSet].
func (h Hasher) File(content, mode string) string {
	return h.Sum("content", content) + "." + h.short(3, "mode", mode)
}

// ID names the key without revealing it: hashes of different keys do not compare.
func (h Hasher) ID() string { return h.Sum("key") }

// keyFile holds the key of this machine and user, in the directory of the runs.
const keyFile = "hash.key"

// keySize is the size of the key in bytes.
const keySize = 32

// Hasher returns the hasher of this machine and user.
func (s Store) Hasher() (Hasher, error) {
	fresh := make([]byte, keySize)
	rand.Read(fresh) // never fails
	if s.Dir == "" {
		return NewHasher(fresh), nil
	}
	// Read first: an unchanged key needs no lock.
	if key, err := s.folder().Read(keyFile); err == nil && len(key) == keySize {
		return NewHasher(key), nil
	}
	err := s.folder().Update(keyFile, func(old []byte) ([]byte, error) {
		if len(old) == keySize {
			fresh = old
		}
		return fresh, nil
	})
	if err != nil {
		return Hasher{}, fmt.Errorf("keep a key for hashes: %w", err)
	}
	return NewHasher(fresh), nil
}

// FileChange is a file that two runs do not have in common.
type FileChange struct {
	Path string `json:"path"`
	How  string `json:"how"` // added, removed, edited, or mode
}

// changedFiles compares the files of two recipes. named is false when it is only known that
// something differs.
func changedFiles(then *Run, old Recipe, now *Run, recipe Recipe) (list []FileChange, named bool) {
	read := func(r *Run, places []int) (files map[string]string, hashes []string, listed bool) {
		files, listed = map[string]string{}, true
		for _, i := range places {
			if i < 0 || i >= len(r.Files) {
				continue
			}
			set := r.Files[i]
			hashes = append(hashes, set.Dir+"\x00"+set.Hash)
			listed = listed && (set.Files != nil || set.Count == 0)
			for name, hash := range set.Files {
				files[set.path(name)] = hash
			}
		}
		return files, hashes, listed
	}
	before, oldHashes, oldListed := read(then, old.Files)
	after, hashes, listed := read(now, recipe.Files)
	if slices.Equal(oldHashes, hashes) {
		return nil, true
	}
	if !oldListed || !listed {
		return nil, false
	}
	for name, hash := range after {
		was, known := before[name]
		content, _, _ := strings.Cut(hash, ".")
		oldContent, _, _ := strings.Cut(was, ".")
		switch {
		case !known:
			list = append(list, FileChange{name, "added"})
		case was == hash:
		case content == oldContent:
			list = append(list, FileChange{name, "mode"})
		default:
			list = append(list, FileChange{name, "edited"})
		}
	}
	for name := range before {
		if _, there := after[name]; !there {
			list = append(list, FileChange{name, "removed"})
		}
	}
	slices.SortFunc(list, func(x, y FileChange) int { return strings.Compare(x.Path, y.Path) })
	return list, len(list) > 0
}
