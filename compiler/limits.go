package compiler

import (
	"context"
	"errors"
	"fmt"
	"io"
	"runtime/metrics"
	"sync/atomic"
	"time"

	"github.com/hashicorp/hcl/v2"
	"github.com/zclconf/go-cty/cty"

	"github.com/dbake/dbake/internal/stopwatch"
)

// The bounds of a definition. They are far above what people write, and keep a file
// that is absurd from taking the machine.
const (
	maxFileSize     = 64 << 20         // bytes of one file
	maxValueSize    = 16 << 20         // bytes of the strings in one value, and its elements
	elementSize     = 64               // bytes that a value takes beside its text
	maxCombinations = 100_000          // of a matrix
	maxEvaluation   = 15 * time.Second // of the processors' time, after the files have been read
	maxWaiting      = 2 * time.Minute  // on a machine that has other things to do, or for a pipe
	maxMemory       = 640 << 20        // bytes that the process holds; one more value may double them
)

// readBounded reads a file to its end, or fails if that does not come.
func readBounded(r io.Reader) ([]byte, error) {
	data, err := io.ReadAll(io.LimitReader(r, maxFileSize+1))
	if err == nil && len(data) > maxFileSize {
		err = fmt.Errorf("more than %d MiB: this is not a build definition", maxFileSize>>20)
	}
	return data, err
}

// place is what is being evaluated, for an error that gives it up.
type place struct{ at atomic.Pointer[hcl.Range] }

// enter reports that rng is being evaluated until leave is called with what enter returned.
func (p *place) enter(rng hcl.Range) (before *hcl.Range) { return p.at.Swap(&rng) }

func (p *place) leave(before *hcl.Range) { p.at.Store(before) }

// inFile is enter for what has no better place than a file.
func (p *place) inFile(name string) { p.enter(hcl.Range{Filename: name}) }

// error reports that the definition is given up where p is.
func (p *place) error(src sources, problem string) error {
	rng := p.at.Load()
	if rng == nil {
		return errors.New(problem)
	}
	if rng.Start.Line == 0 {
		return fmt.Errorf("%s: %s", rng.Filename, problem)
	}
	return src.at(sourceRange(src.inFile(*rng)), fmt.Errorf("%s, and was here when it was given up", problem))
}

// guard runs f until it ends, ctx does, or f takes more time or memory than any
// definition needs; the error then names the place that f has come to. An expression
// cannot be interrupted: f is left behind, and what it does to its results is for
// nobody; the process is expected to end.
func guard(ctx context.Context, at *place, src sources, f func() error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	done := make(chan error, 1)
	go func() { done <- f() }()
	clock := time.NewTimer(maxWaiting)
	defer clock.Stop()
	began, start := time.Now(), stopwatch.ProcessTime()
	look := time.NewTicker(20 * time.Millisecond)
	defer look.Stop()
	sample := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	for {
		select {
		case err := <-done:
			return err
		case <-ctx.Done():
			return context.Cause(ctx)
		case <-clock.C:
			return at.error(src, fmt.Sprintf("the definition takes more than %s to evaluate", maxWaiting))
		case <-look.C:
			spent := stopwatch.ProcessTime() - start
			if start == 0 {
				spent = time.Since(began) // the system does not say
			}
			if spent > maxEvaluation {
				return at.error(src, fmt.Sprintf("the definition takes more than %s of processor time to evaluate", maxEvaluation))
			}
			if metrics.Read(sample); sample[0].Value.Uint64() > maxMemory {
				return at.error(src, fmt.Sprintf("the definition takes more than %d MiB of memory to evaluate", maxMemory>>20))
			}
		}
	}
}

var errValueTooLarge = fmt.Errorf("the value is larger than %d MiB, or nested too deeply", maxValueSize>>20)

// checkSize reports a value that is larger than any definition needs: values that are
// made of each other double with every one.
func checkSize(v cty.Value, rng hcl.Range) hcl.Diagnostics {
	if sizeOf(v, maxValueSize) >= 0 {
		return nil
	}
	return diagnose("Value too large", errValueTooLarge, rng, rng)
}

// sizeOf returns what is left of a number of bytes after those of a value, less than
// zero when they are not enough.
func sizeOf(v cty.Value, left int) int {
	left -= elementSize
	switch {
	case left < 0 || !v.IsKnown() || v.IsNull() || v.IsMarked():
	case v.Type() == cty.String:
		left -= len(v.AsString())
	case v.CanIterateElements():
		for it := v.ElementIterator(); left >= 0 && it.Next(); {
			_, element := it.Element()
			left = sizeOf(element, left)
		}
	}
	return left
}

var errTooManyCombinations = errors.New("matrix has more than 100000 combinations")
