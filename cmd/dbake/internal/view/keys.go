package view

import (
	"encoding/json"
	"fmt"
	"io"

	"github.com/dbake/dbake/internal/imagekey"
	"github.com/dbake/dbake/internal/report"
)

// Key prints the inputs of a target's image, one a line.
func Key(w io.Writer, k imagekey.Key) error {
	fmt.Fprintf(w, "target        %s\nkey           %s\n", k.Target, k.Digest)
	if k.Attested != "" {
		fmt.Fprintf(w, "attestations  %s\n", k.Attested)
	}
	switch {
	case k.Unknown != "":
		fmt.Fprintf(w, "always built  %s\n", k.Unknown)
	case k.Anew:
		fmt.Fprintln(w, "always built  the cache is not wanted")
	}
	fmt.Fprintln(w)
	t := &table{right: map[int]bool{}}
	for _, l := range k.Lines {
		label := l.Label
		switch {
		case l.Part:
			label = "  " + label // the line "steps" covers it
		case l.Attested && k.Attested == "":
			continue // nothing shows it
		case l.Attested:
			label += " (attestations)"
		}
		t.row(label, l.Value)
	}
	return t.write(w)
}

// KeyChanges prints the differences between the lines of two keys of a target.
func KeyChanges(w io.Writer, target, since string, same bool, list []imagekey.Difference) error {
	if same {
		fmt.Fprintf(w, "%s: the same key as %s\n", target, since)
	} else {
		fmt.Fprintf(w, "%s: another key than %s\n", target, since)
	}
	if len(list) == 0 {
		return nil
	}
	t := newTable()
	t.row("LINE", "THEN", "NOW")
	for _, d := range list {
		t.row(d.Label, dash(short(d.Then)), dash(short(d.Now)))
	}
	return t.write(w)
}

// short returns the beginning of a digest, and any other text whole.
func short(value string) string {
	const algorithm, digits = len("sha256:"), 12
	if len(value) == algorithm+64 && value[:algorithm] == "sha256:" {
		return value[:algorithm+digits]
	}
	return value
}

// keysDocument is the JSON form of keys.
type keysDocument struct {
	Format  string         `json:"format"`
	Version int            `json:"version"`
	Keys    []imagekey.Key `json:"keys"`
}

const (
	keysFormat  = "dbake-keys"
	keysVersion = 1
)

// KeysJSON writes keys in the form that [ReadKeys] reads. Values that are not digests are
// replaced by their digests.
func KeysJSON(w io.Writer, keys []imagekey.Key) error {
	doc := keysDocument{keysFormat, keysVersion, []imagekey.Key{}}
	for _, k := range keys {
		doc.Keys = append(doc.Keys, k.Hash())
	}
	return report.WriteJSON(w, doc)
}

// ReadKeys reads what [KeysJSON] wrote, by target.
func ReadKeys(data []byte) (map[string]imagekey.Key, error) {
	var doc keysDocument
	if err := json.Unmarshal(data, &doc); err != nil || doc.Format != keysFormat || doc.Version != keysVersion {
		return nil, fmt.Errorf("it holds no keys of dbake of version %d; write some with dbake explain --key TARGET --format json -o FILE", keysVersion)
	}
	keys := map[string]imagekey.Key{}
	for _, k := range doc.Keys {
		keys[k.Target] = k
	}
	return keys, nil
}
