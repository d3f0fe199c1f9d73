package main

import (
	"errors"
	"fmt"
	"strconv"
	"strings"

	"github.com/tonistiigi/go-csvvalue"
)

// jobs is the value of --jobs: whether the build goes on when a target fails, and how many
// targets are built at once.
type jobs struct {
	mode  jobsMode // "" when the value names none
	limit int      // 0 is no limit
}

type jobsMode string

const (
	failFast    jobsMode = "fail-fast"    // the first failure ends the build
	deferOutput jobsMode = "defer-output" // as failFast, and outputs wait until all is built
	deferError  jobsMode = "defer-error"  // what does not depend on the failure is built
)

// UnmarshalText implements encoding.TextUnmarshaler for N and
// MODE|mode=MODE[,parallel=N] in any order.
func (j *jobs) UnmarshalText(text []byte) error {
	*j = jobs{}
	value := strings.TrimSpace(string(text))
	if value == "" {
		return nil
	}
	if _, err := strconv.Atoi(value); err == nil {
		value = "parallel=" + value
	}
	fields, err := csvvalue.Fields(value, nil)
	if err != nil {
		return fmt.Errorf("invalid jobs option: %w", err)
	}
	seen := map[string]bool{}
	for _, field := range fields {
		key, v, ok := strings.Cut(strings.TrimSpace(field), "=")
		if !ok {
			key, v = "mode", key
		}
		key, v = strings.ToLower(strings.TrimSpace(key)), strings.TrimSpace(v)
		if seen[key] {
			return fmt.Errorf("duplicate jobs option %q", key)
		}
		seen[key] = true
		switch key {
		case "mode":
			switch j.mode = jobsMode(v); j.mode {
			case failFast, deferOutput, deferError:
			default:
				return fmt.Errorf("invalid jobs mode %q: expected fail-fast, defer-output or defer-error", v)
			}
		case "parallel":
			if j.limit, err = strconv.Atoi(v); err != nil || j.limit < 0 {
				return fmt.Errorf("invalid jobs parallel value %q: must be a non-negative integer", v)
			}
		default:
			return fmt.Errorf("unknown jobs option %q: expected mode or parallel", key)
		}
	}
	return nil
}

// orFailFast returns j in the mode that --fail-fast, if it was given, stands for.
func (j jobs) orFailFast(fast, keepGoing bool) (jobs, error) {
	switch {
	case !fast:
		return j, nil
	case keepGoing:
		return j, errors.New("--fail-fast and --keep-going exclude each other")
	case j.mode != "" && j.mode != failFast:
		return j, errors.New("--fail-fast is --jobs=fail-fast; it cannot be combined with --jobs=" + string(j.mode))
	}
	j.mode = failFast
	return j, nil
}

// orKeepGoing returns j in the mode that --keep-going, if it was given, stands for.
func (j jobs) orKeepGoing(keepGoing bool) (jobs, error) {
	if !keepGoing {
		return j, nil
	}
	if j.mode != "" && j.mode != deferError {
		return j, errors.New("--keep-going is --jobs=defer-error; it cannot be combined with --jobs=" + string(j.mode))
	}
	j.mode = deferError
	return j, nil
}
