package imagekey

import (
	"encoding/json"
	"fmt"
	"strings"

	digest "github.com/opencontainers/go-digest"

	"github.com/dbake/dbake/internal/memory/folder"
)

// recordsFile is the name of the file with the records.
const recordsFile = "records.gz"

// Ledger remembers records on this machine, in a directory of their own. The zero
// Ledger remembers nothing.
type Ledger struct{ Dir string }

func (l Ledger) folder() folder.Folder { return folder.Folder{Dir: l.Dir, Limit: MaxBytes} }

// Load returns the records. What cannot be read is an error; there are none then.
func (l Ledger) Load() (Records, error) {
	if l.Dir == "" {
		return Records{}, nil
	}
	data, err := l.folder().Read(recordsFile)
	if err != nil || data == nil {
		return Records{}, about("read which images were pushed", err)
	}
	r, err := Decode(data)
	return r, about("read which images were pushed", err)
}

func about(what string, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("%s: %w", what, err)
}

// Add remembers records.
func (l Ledger) Add(more Records) error {
	if l.Dir == "" || more.Len() == 0 {
		return nil
	}
	return about("remember which images were pushed", l.folder().Update(recordsFile, func(old []byte) ([]byte, error) {
		all, err := Decode(old)
		if err != nil {
			all = Records{} // none yet, or damaged
		}
		all.Add(more.newestFirst()...) // base images are remembered elsewhere
		return all.Encode()
	}))
}

// lines is the file with the keys of a project's last pushes, whose lines are hashed:
// who compares wants to know which one differs.
func lines(project string) string {
	return "lines-" + digest.FromString(project).Encoded()[:24] + ".json"
}

// Last returns the keys that the targets of a project, named by its directory, had
// when they were last pushed from this machine, by target. The values of their lines
// are those of [Key.Hash].
func (l Ledger) Last(project string) (map[string]Key, error) {
	if l.Dir == "" {
		return nil, nil
	}
	data, err := l.folder().Read(lines(project))
	if err != nil || data == nil {
		return nil, about("read the keys of the last push", err)
	}
	var keys map[string]Key
	err = json.Unmarshal(data, &keys)
	return keys, about("read the keys of the last push", err)
}

// SetLast remembers the keys with which targets were pushed now.
func (l Ledger) SetLast(project string, now map[string]Key) error {
	if l.Dir == "" || len(now) == 0 {
		return nil
	}
	return about("remember the keys of this push", l.folder().Update(lines(project), func(old []byte) ([]byte, error) {
		keys := map[string]Key{}
		if json.Unmarshal(old, &keys) != nil || keys == nil {
			keys = map[string]Key{} // none yet, or damaged
		}
		for name, k := range now {
			keys[name] = k.Hash()
		}
		return json.Marshal(keys)
	}))
}

// Hash returns k with a digest in place of every value that is none, and without the
// commands of steps, so that it can be kept: both may hold secrets.
func (k Key) Hash() Key {
	lines := make([]Line, len(k.Lines))
	for i, l := range k.Lines {
		if l.Value = plainDigest(l.Value); l.Value == "" {
			l.Value = hash(k.Lines[i].Value)
		}
		l.Label = withoutCommand(l.Label)
		lines[i] = l
	}
	k.Lines = lines
	return k
}

// withoutCommand returns the label of a line without what follows the instruction of a
// step, as "step [build 2/4] RUN".
func withoutCommand(label string) string {
	at := strings.Index(label, "] ")
	if at < 0 {
		return label
	}
	instruction, _, _ := strings.Cut(label[at+2:], " ")
	return label[:at+2] + instruction
}

// plainDigest returns value if it is nothing but a digest, else "".
func plainDigest(value string) string {
	if digest.Digest(value).Validate() != nil {
		return ""
	}
	return value
}
