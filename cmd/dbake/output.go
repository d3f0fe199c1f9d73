package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"

	"github.com/dbake/dbake/internal/localfile"
	"github.com/dbake/dbake/internal/redact"
)

// output lets write fill standard output, when name is "" or "-", or a file, all or
// nothing. Tokens and passwords in URLs are left out.
func (a *app) output(ctx context.Context, name string, write func(io.Writer) error) error {
	var buf bytes.Buffer
	if err := write(&buf); err != nil {
		return err
	}
	text := redact.Text(buf.String())
	if name == "" || name == "-" {
		_, err := io.WriteString(a.stdout, text)
		return err
	}
	if err := localfile.Write(ctx, a.path(name), []byte(text)); err != nil {
		return fmt.Errorf("write %s: %w", name, err)
	}
	return nil
}

// writeMetadata writes what is known of each target.
func (a *app) writeMetadata(ctx context.Context, name string, byTarget map[string]map[string]any) error {
	dt, err := json.MarshalIndent(byTarget, "", "  ")
	if err != nil {
		return fmt.Errorf("encode metadata: %w", err)
	}
	if err := localfile.Write(ctx, a.path(name), dt); err != nil {
		return fmt.Errorf("write metadata: %w", err)
	}
	return nil
}
