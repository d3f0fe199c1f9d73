package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"

	"github.com/dbake/dbake/cmd/dbake/internal/view"
	"github.com/dbake/dbake/frontend"
	"github.com/dbake/dbake/internal/engine"
	"github.com/dbake/dbake/runtime/output"
)

// callFlag is the value of --call.
type callFlag struct {
	method       string // "" is to build
	json         bool
	ignoreStatus bool
}

// callFlag reads --call and --check.
func (f *definitionFlags) callFlag() (callFlag, error) {
	if f.Call == "" {
		if f.Check {
			return callFlag{method: frontend.Method("check")}, nil
		}
		return callFlag{}, nil
	}
	fields, err := csvvalue.Fields(f.Call, nil)
	if err != nil {
		return callFlag{}, fmt.Errorf("invalid value %q for --call: %w", f.Call, err)
	}
	var c callFlag
	named := false
	for _, field := range fields {
		key, value, ok := strings.Cut(field, "=")
		switch {
		case !ok && named:
			return callFlag{}, fmt.Errorf("invalid print value: %s", f.Call)
		case !ok:
			c.method, named = frontend.Method(field), true
		case key == "format":
			c.json = value == "json"
		case key == "ignorestatus":
			if c.ignoreStatus, err = strconv.ParseBool(value); err != nil {
				return callFlag{}, fmt.Errorf("invalid ignorestatus print value: %s: %w", value, err)
			}
		default:
			return callFlag{}, fmt.Errorf("invalid print field: %s", field)
		}
	}
	if f.Check && c.method != frontend.Method("check") {
		return callFlag{}, fmt.Errorf("--check and --call=%s exclude each other", f.Call)
	}
	return c, nil
}

// callAll answers for a command line with --call: no target is built.
func (c *buildCmd) callAll(ctx context.Context, a *app, flag callFlag) (err error) {
	request, err := c.request(a)
	if err != nil {
		return err
	}
	request.Reach, request.Nodes.Late = engine.Running, len(c.Nodes) == 0 && c.Builder == ""
	s := a.engine().Open(request)
	defer func() { err = errors.Join(err, s.Close()) }()
	return c.answer(ctx, a, s, flag)
}

// answer prints what the targets that are not to be built ask for, and ends the command
// with the status of the answers.
func (c *buildCmd) answer(ctx context.Context, a *app, s *engine.Session, flag callFlag) error {
	if err := s.Through(ctx, engine.Facts); err != nil {
		return err
	}
	answers, err := s.Answer(ctx)
	if err != nil {
		return err
	}
	var status int
	if flag.json {
		status, err = view.CallsJSON(a.stdout, s.Project(), answers, flag.ignoreStatus)
	} else {
		status, err = view.Calls(a.stdout, answers, flag.ignoreStatus)
	}
	if err != nil {
		return err
	}
	if c.MetadataFile != "" {
		byTarget := map[string]map[string]any{}
		if result, _ := s.Result(); result != nil {
			byTarget = metadata(result)
		}
		for _, answer := range answers {
			resp := map[string]string{}
			for k, v := range answer.Result {
				resp[k] = string(v)
			}
			byTarget[answer.Target.Name] = output.Metadata(resp)
			if json.Valid(answer.JSON()) {
				byTarget[answer.Target.Name]["result.json"] = answer.JSON()
			}
		}
		if err := c.writeMetadata(ctx, a, byTarget, false); err != nil {
			return err
		}
	}
	if status != 0 {
		return exitError{status}
	}
	return nil
}
