package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/internal/imagekey"
	"github.com/dbake/dbake/internal/localfile"
)

type explainCmd struct {
	definitionFlags
	nodeFlags
	planFlags

	Key     bool   `help:"Print what goes into the image of each target, a line for each thing: a target whose lines are those of a pushed image is not built again."`
	With    string `placeholder:"FILE|last" help:"Print which lines differ from those in a file that --format json wrote, or from those with which the targets were last pushed from here."`
	Against string `placeholder:"REV" help:"Print which lines differ from those at a commit or branch."`
	Format  string `default:"table" enum:"table,json" help:"Output: table, or json to be compared later."`
	Output  string `short:"o" placeholder:"FILE" help:"Write to a file instead of standard output."`
}

// lastPush is what --with is given for the keys of the last push.
const lastPush = "last"

// maxKeys bounds a file of keys, in bytes.
const maxKeys = 64 << 20

func (c *explainCmd) Run(ctx contextBinding, a *app) (err error) {
	switch {
	case !c.Key:
		return usageError{errors.New("say what is to be explained: --key says what goes into an image")}
	case c.With != "" && c.Against != "":
		return usageError{errors.New("--with and --against exclude each other")}
	case (c.With != "" || c.Against != "") && c.Format != "table":
		return usageError{errors.New("--with and --against are written as tables only")}
	}
	var then map[string]imagekey.Key
	if c.With != "" && c.With != lastPush {
		data, err := localfile.Read(a.path(c.With), maxKeys)
		if err == nil {
			then, err = view.ReadKeys(data)
		}
		if err != nil {
			return fmt.Errorf("%s: %w", c.With, err)
		}
	}
	request, err := a.request(&c.definitionFlags, &c.nodeFlags, &c.planFlags)
	if err != nil {
		return err
	}
	request.Reach, request.Reuse, request.Keys = engine.Running, engine.ReuseNever, true
	s := a.engine().Open(request)
	defer func() { err = errors.Join(err, s.Close()) }()
	if err := s.Through(ctx, engine.Reuse); err != nil {
		return err
	}
	since := c.With
	switch {
	case c.Against != "":
		since = c.Against
		if then, err = s.Changes().KeysAt(ctx, engine.NewSince(c.Against, nil)); err != nil {
			return err
		}
	case c.With == lastPush:
		since = "the last push"
		if then, err = s.Images().Last(); err != nil {
			return err
		}
	}
	return c.show(ctx, a, s, since, then)
}

// show prints the keys of the targets that were asked for, or how they differ from then.
func (c *explainCmd) show(ctx context.Context, a *app, s *engine.Session, since string, then map[string]imagekey.Key) error {
	var keys []imagekey.Key
	for _, t := range s.Definition().Targets {
		if k, ok := s.Images().Keys()[t.Name]; ok && !t.Linked {
			keys = append(keys, k)
		}
	}
	return a.output(ctx, c.Output, func(w io.Writer) error {
		if c.Format == "json" {
			return view.KeysJSON(w, keys)
		}
		for i, k := range keys {
			if i > 0 {
				fmt.Fprintln(w)
			}
			if since == "" {
				if err := view.Key(w, k); err != nil {
					return err
				}
				continue
			}
			old, known := then[k.Target]
			if !known {
				fmt.Fprintf(w, "%s: nothing is known of %s\n", k.Target, since)
				continue
			}
			if err := view.KeyChanges(w, k.Target, since, old.Same(k), imagekey.Compare(old.Hashed().Lines, k.Hashed().Lines)); err != nil {
				return err
			}
		}
		return nil
	})
}

// since returns the state that a name stands for: that of a saved plan, or a revision.
func (a *app) since(name string) (*engine.Since, error) {
	if strings.HasSuffix(name, ".json") {
		saved, err := a.planFile([]string{name})
		if err != nil || saved != nil {
			return engine.NewSince(name, saved), err
		}
	}
	return engine.NewSince(name, nil), nil
}
