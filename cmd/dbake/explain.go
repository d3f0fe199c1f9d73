package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"

	"github.com/alecthomas/kong"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/internal/imagekey"
	"github.com/dbake/dbake/internal/localfile"
	"github.com/dbake/dbake/internal/memory/runs"
)

type explainCmd struct {
	definitionFlags
	nodeFlags
	planFlags

	RunID  string `name:"run" placeholder:"ID" help:"The build that is explained, by the beginning of its name (default: the last one of the target here)."`
	Before string `placeholder:"ID" help:"The build that it is compared with (default: the one before)."`

	Key     bool   `help:"Print what goes into the image of each target, a line for each thing: a target whose lines are those of a pushed image is not built again."`
	With    string `placeholder:"FILE|last" help:"With --key, print which lines differ from those in a file that --format json wrote, or from those with which the targets were last pushed from here."`
	Against string `placeholder:"REV" help:"With --key, print which lines differ from those at a commit or branch."`
	Format  string `default:"table" enum:"table,json" help:"Output: table or json; with --key, json can be compared later."`
	Output  string `short:"o" placeholder:"FILE" help:"Write to a file instead of standard output."`
}

// lastPush is the value of --with for the keys of the last push.
const lastPush = "last"

// maxKeys bounds a file of keys, in bytes.
const maxKeys = 64 << 20

// Help describes the command, and names those that answer related questions.
func (explainCmd) Help() string {
	return strings.TrimSpace(`
Says step by step why the last build of a target ran what it ran, compared with the build before: which file, argument, command, base image or secret has changed, or which result was lost. It reads what builds left on this machine; no node is needed. Without a target, it answers for each that ran a step.

"dbake explain --key" says what goes into the image of a target now, "dbake plan --explain TARGET" why a target would be built where it would be.`)
}

// ofRuns are the flags that ask about past builds. All others but ofBoth are about the
// definition, and need --key.
var (
	ofRuns = map[string]bool{"run": true, "before": true}
	ofBoth = map[string]bool{"key": true, "format": true, "output": true, "debug": true, "help": true}
)

// checkFlags refuses flags that would have no effect.
func (c *explainCmd) checkFlags(k *kong.Context) error {
	var given []string
	for _, p := range k.Path {
		if p.Flag != nil {
			given = append(given, p.Flag.Name)
		}
	}
	for _, f := range k.Selected().Flags {
		if f.Target.Kind() == reflect.Slice && f.Target.Len() > 0 { // it may have passed by the parser
			given = append(given, f.Name)
		}
	}
	for _, name := range given {
		switch of := ofRuns[name]; {
		case ofBoth[name]:
		case c.Key && of:
			return fmt.Errorf("--%s is about past builds, and --key about the definition as it is now: leave one out", name)
		case !c.Key && !of:
			return fmt.Errorf("--%s needs --key: it is about the definition as it is now, not about a past build", name)
		}
	}
	return nil
}

func (c *explainCmd) Run(ctx contextBinding, a *app, k *kong.Context) (err error) {
	if err := c.checkFlags(k); err != nil {
		return usageError{err}
	}
	if !c.Key {
		return c.runs(ctx, a)
	}
	switch {
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

// runs explains a past build.
func (c *explainCmd) runs(ctx context.Context, a *app) error {
	if len(c.Targets) > 0 {
		var list []runs.Explanation
		for _, target := range c.Targets {
			e, err := c.explain(a, target)
			if err != nil {
				return err
			}
			list = append(list, e)
		}
		return c.print(ctx, a, list)
	}
	now, before, err := c.pickRuns(a, "")
	if err != nil {
		return err
	}
	list := []runs.Explanation{}
	for _, t := range now.Targets {
		earlier := before
		if earlier != nil && c.Before == "" && earlier.Target(t.Name).Name == "" {
			if earlier, err = a.runs().Before(now, t.Name); err != nil {
				return err
			}
		}
		list = append(list, runs.Explain(earlier, now, t.Name))
	}
	return c.print(ctx, a, list)
}

// explain explains one target.
func (c *explainCmd) explain(a *app, target string) (runs.Explanation, error) {
	now, before, err := c.pickRuns(a, target)
	if err != nil {
		return runs.Explanation{}, err
	}
	if now.Target(target).Name == "" {
		return runs.Explanation{}, fmt.Errorf("target %s has no part in run %s; \"dbake log --run %s\" shows what has", target, now.ID, now.ID)
	}
	return runs.Explain(before, now, target), nil
}

// pickRuns returns the run that is explained and the one that it is compared with, nil
// for none.
func (c *explainCmd) pickRuns(a *app, target string) (now, before *runs.Run, err error) {
	if c.RunID == "" {
		now, before, err = a.runs().Latest(a.dir, target)
		if errors.Is(err, runs.ErrNone) && target != "" {
			return nil, nil, fmt.Errorf("no build of target %s is remembered on this machine; \"dbake log ls\" lists those that are", target)
		}
		if errors.Is(err, runs.ErrNone) {
			err = errors.New("no build is remembered on this machine")
		}
	} else if now, err = readRun(a.runs(), c.RunID); err == nil {
		before, err = a.runs().Before(now, target)
	}
	if err != nil || c.Before == "" {
		return now, before, err
	}
	before, err = readRun(a.runs(), c.Before)
	if err == nil && before.ID == now.ID {
		err = usageError{fmt.Errorf("--before names run %s itself", now.ID)}
	}
	return now, before, err
}

// print prints explanations.
func (c *explainCmd) print(ctx context.Context, a *app, list []runs.Explanation) error {
	return a.output(ctx, c.Output, func(w io.Writer) error {
		if c.Format == "json" {
			return view.ReasonsJSON(w, list)
		}
		return view.Reasons(w, list, len(c.Targets) == 0)
	})
}

// show prints the keys of the targets that were asked for, or how they differ from earlier
// ones.
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
				fmt.Fprintf(w, "%s: nothing is known about %s\n", k.Target, since)
				continue
			}
			if err := view.KeyChanges(w, k.Target, since, old.Same(k), imagekey.Compare(old.Hash().Lines, k.Hash().Lines)); err != nil {
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
