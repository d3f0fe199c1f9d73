package runs

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"time"
)

// Span is work of a node inside a step, a pull or an export, as the node reports it.
type Span struct {
	Node       string            `json:"node"`
	ID         string            `json:"id"`
	Parent     string            `json:"parent,omitempty"`
	Name       string            `json:"name"`
	Start      time.Time         `json:"start"` // by the clock of the node
	End        time.Time         `json:"end"`
	Attributes map[string]string `json:"attributes,omitempty"`
	Error      string            `json:"error,omitempty"`
}

// spansSuffix ends the name of the file of a run's spans: they are many, and only traces
// read them.
const spansSuffix = ".spans"

// AddSpans keeps the spans of a run.
func (s Store) AddSpans(id string, list []Span) error {
	if s.Dir == "" || len(list) == 0 {
		return nil
	}
	data, err := json.Marshal(list)
	if err == nil {
		err = s.folder().Write(id+spansSuffix, data)
	}
	if err != nil {
		return fmt.Errorf("remember the spans of the run: %w", err)
	}
	return nil
}

// Spans returns the spans of a run; none when it was not traced.
func (s Store) Spans(id string) ([]Span, error) {
	data, err := s.folder().Read(id + spansSuffix)
	if err != nil {
		return nil, fmt.Errorf("read the spans of run %s: %w", id, err)
	}
	if data == nil {
		return nil, nil
	}
	var list []Span
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("the spans of run %s are damaged: %w", id, err)
	}
	return list, nil
}

// size is how much is kept of a run, in bytes.
func (s Store) size(id string) int64 {
	var size int64
	for _, end := range []string{suffix, spansSuffix} {
		if info, err := os.Stat(s.folder().Path(id + end)); err == nil {
			size += info.Size()
		}
	}
	return size
}

// forget removes a run.
func (s Store) forget(id string) error {
	for _, end := range []string{spansSuffix, suffix} {
		if err := os.Remove(s.folder().Path(id + end)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("forget a run: %w", err)
		}
	}
	return nil
}
