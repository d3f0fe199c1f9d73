package simnode_test

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	goruntime "runtime"
	"runtime/debug"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/dbake/dbake/runtime"
	"github.com/dbake/dbake/runtime/simnode"
)

var (
	seedFlag  = flag.Uint64("seed", 0, "the first seed of TestSeeds")
	traceFlag = flag.Bool("trace", false, "print what happens in the runs of TestSeeds")
	seedsFlag = flag.Int("seeds", 200, "how many seeds TestSeeds tries")
)

const (
	// limit is how long a run may take, in the time of its bubble, until it is told to
	// end; it counts as hung then.
	limit = time.Hour
	// stuck is how long a seed may take in real time before the test says which it is:
	// a goroutine that waits for a lock keeps the time of a bubble from passing.
	stuck = time.Minute
	// batch is how many seeds share a bubble.
	batch = 50
)

// Whatever happens to nodes and caches, a run ends, says what became of every target, and
// counts what was really done; what was pushed is there, and rests on one result of each
// step. Everything that happens follows from the seed:
//
//	go test ./runtime/simnode -run TestSeeds -args -seed N -seeds 1 -trace
func TestSeeds(t *testing.T) {
	var current atomic.Uint64
	var all seen
	defer watch(&current)()
	for first := *seedFlag; first < *seedFlag+uint64(*seedsFlag); first += batch {
		last := min(first+batch, *seedFlag+uint64(*seedsFlag))
		t.Run(fmt.Sprintf("%d-%d", first, last-1), func(t *testing.T) { trySeeds(t, first, last, &current, &all) })
	}
	t.Logf("%+v", all)
}

// Seeds that have shown a fault:
//
//   - 1002: a daemon that ended while its last words were on their way could not be written
//     to, and gRPC tried a call again for ever.
//   - 1610: a result counted as one that cannot be sent while it was being sent, as steps below
//     it had failed before, and three nodes executed the step.
//   - 5498: a node that drained was not looked at when a part came into the pool that only it
//     may build, after the step had failed on the others.
//   - 5514 and 20043: a node that executed what the plan had sent to it did not wait for all
//     of the inputs, and two nodes executed a step with one result.
//   - 20230: what held results took the failure to read a lost layer along into the next build
//     of its node, which could then never make the layer anew.
//   - 32473: a node was taken to wait for what the plan has sent to it, but nobody sent it, and
//     another node executed a step that it executed, too.
//   - 32950 and 107820: a step that could not read a lost layer failed again after this had been
//     built anew, as the build in which it had failed before went on. So did what joins units.
//   - 101164: a unit that two sick nodes had failed was not tried on the two that were well.
//   - 101304: a result counted as one that cannot be sent because of a lost layer, which was being
//     built anew, and another node executed the step.
//   - 102736 and 103530: a node that was asked for what it had lost, or to write it to a cache,
//     executed the step, once more than was needed.
//   - 107283: a node that executed what nobody sent to it did not own any longer what it executed
//     for other units, and another node executed that, too.
//   - 109207: a node that drained kept what it had not begun although another one, which had
//     drained, was to stay after all.
//   - 117970 and 120786: a copy began when its submission was taken back, and the thief was given
//     it before that was heard.
//   - 109359: what a unit stands on had no owner when the end of the unit was heard before those of
//     its steps.
//   - 206670 (with those from 206650 on): what several submissions had lost together counted as
//     failed attempts of all but one, a node that came back empty did not try again what could
//     not read what was lost, and nobody said that a step was executed anew after others had
//     built on its result.
//   - 19770 (with those from 19765 on): a step below one that was found had no result when this was
//     exported. It was executed, printed nothing, and was not counted.
//   - 39236 (with those from 39230 on): a step that ignored the cache could not read a lost layer
//     either, its failure was found again while a build that knew it went on, and each time
//     counted as a failed attempt.
//   - 408420: without retries, a step that had failed on one node was executed by all others, for
//     units that had waited for its result.
//   - 2170: a node that had found a step executed those below it, which were to be sent with it.
//   - 8403: a fetch that ended with the build which had begun it was taken for a lost layer.
//   - 120894, 204312, 208146: a step that a node executed while it looked for what it had lost, or
//     while it wrote a cache, was not counted.
//   - 350980: a node executed a step again, since it had lost the result while it was away, and
//     kept others that stood on the first: images differed, and nobody said so.
//   - 13593: dbake panicked when a node was lost while a run was stopped and another had come.
//   - 172239: a session that had ended by itself waited for a word of its node, which was silent.
func TestSeedsOfFaults(t *testing.T) {
	var current atomic.Uint64
	var all seen
	defer watch(&current)()
	for _, seed := range []uint64{1002, 1610, 2170, 5498, 5514, 8403, 13593, 20043, 20230, 32473, 32950, 101164, 101304, 102736, 103530, 107283, 107820, 109207, 109359, 117970, 120786, 120894, 172239, 204312, 208146, 350980, 408420} {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { trySeeds(t, seed, seed+1, &current, &all) })
	}
}

// watch says which seed it is when a seed takes very long.
func watch(current *atomic.Uint64) (stop func()) {
	done := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		tick := time.NewTicker(stuck)
		defer tick.Stop()
		before := ^uint64(0)
		for {
			select {
			case <-done:
				return
			case <-tick.C:
			}
			if now := current.Load(); now == before {
				fmt.Fprintf(os.Stderr, "seed %d has been at it for more than %s\n", now, stuck)
			} else {
				before = now
			}
		}
	}()
	return func() {
		close(done)
		<-ended
	}
}

// trial is a seed with its project, which is compiled outside of the bubble.
type trial struct {
	seed    uint64
	project *project
	seen    *seen
}

// seen counts what the runs went through, so that one sees what they try.
type seen struct {
	runs, whole, steals, sent, lost, sick, warnings int
	// unpublished are jobs behind a gate that failed, flaky the steps that were found to be.
	unpublished, flaky, drains int
}

func (s *seen) add(o outcome) {
	s.runs++
	if o.err == nil {
		s.whole++
	}
	s.sent += o.sent
	s.drains += o.drains.ever
	if o.result == nil {
		return
	}
	s.steals += len(o.result.Steals)
	s.sick += len(o.result.Sick)
	s.warnings += len(o.result.Warnings)
	for _, j := range o.result.Jobs {
		if j.State == runtime.Unpublished {
			s.unpublished++
		}
	}
	for _, f := range o.result.FailedSteps {
		if f.Verdict() == runtime.Flaky {
			s.flaky++
		}
	}
	for _, n := range o.result.Nodes {
		if n.Lost != nil {
			s.lost++
		}
	}
}

// inBubble runs f in a bubble of its own. BuildKit's sessions use the channels that net/http2
// keeps in a pool: one that was made in a bubble ends the process in another. Two
// collections empty the pool.
func inBubble(t *testing.T, f func(t *testing.T)) {
	goruntime.GC()
	goruntime.GC()
	synctest.Test(t, f)
}

func trySeeds(t *testing.T, first, last uint64, current *atomic.Uint64, seen *seen) {
	var trials []trial
	for seed := first; seed < last; seed++ {
		trials = append(trials, trial{seed, newProject(t, seed), seen})
	}
	inBubble(t, func(t *testing.T) {
		for _, x := range trials {
			current.Store(x.seed)
			x.try(t)
		}
	})
}

var errLimit = errors.New("the run has taken too long")

// try carries out the run of a seed and, of some, another one on new nodes, which finds the
// caches of the first damaged.
func (x trial) try(t *testing.T) {
	r := &simnode.Registry{}
	w := newWorld(x.seed, r)
	x.retry(w)
	x.run(t, w)
	if w.cached && !x.project.fails && x.seed%2 == 0 {
		again := newWorld(x.seed, r)
		again.cached = true
		x.retry(again)
		again.said = append(again.said, "second run")
		again.lose(0.1 + 0.4*again.rng.Float64())
		x.run(t, again)
	}
}

// retry has steps of a flaky project that fail be executed again.
func (x trial) retry(w *world) {
	if x.project.flaky {
		w.retrySteps = int(x.seed % 4)
	}
}

// run carries out one run.
func (x trial) run(t *testing.T, w *world) {
	synctest.Wait()
	before := len(goroutinesOfBubble())
	w.delay()
	ctx, cancel := context.WithCancelCause(context.Background())
	over := time.AfterFunc(limit, func() {
		w.said = append(w.said, "it waited here:", stacks())
		cancel(errLimit)
	})
	done := make(chan outcome, 1)
	go func() {
		defer func() {
			if v := recover(); v != nil {
				panic(fmt.Sprintf("seed %d: %v\n%s\n%s", x.seed, v, strings.Join(w.said, "\n"), debug.Stack()))
			}
		}()
		done <- w.carryOut(ctx, t, x.project)
	}()
	var wrong []string
	select {
	case o := <-done:
		if errors.Is(o.err, errLimit) {
			wrong = append(wrong, "it had not ended after "+limit.String())
		} else {
			wrong = w.check(x.project, o)
			x.seen.add(o)
		}
	case <-time.After(2 * limit):
		fmt.Fprintf(os.Stderr, "seed %d hangs, also when it is told to end\n%s\n%s", x.seed, strings.Join(w.said, "\n"), stacks())
		os.Exit(1)
	}
	over.Stop()
	cancel(nil)
	time.Sleep(time.Minute) // for what comes back later
	w.close()
	time.Sleep(time.Minute)
	synctest.Wait()
	if left := goroutinesOfBubble(); len(left) > before {
		wrong = append(wrong, fmt.Sprintf("%d goroutines are left:\n%s", len(left)-before, strings.Join(left, "\n\n")))
	}
	if len(wrong) > 0 {
		t.Errorf("seed %d: %s\n\t%s", x.seed, strings.Join(wrong, "\n\t"), strings.Join(w.said, "\n\t"))
	}
}

// goroutinesOfBubble returns the goroutines of the bubble.
func goroutinesOfBubble() []string {
	var list []string
	for g := range strings.SplitSeq(stacks(), "\n\n") {
		head, _, _ := strings.Cut(g, "\n")
		if strings.Contains(head, "synctest bubble") && !strings.Contains(head, "synctest.Run") {
			list = append(list, g)
		}
	}
	return list
}

// stacks returns what all goroutines are at.
func stacks() string {
	for buf := make([]byte, 1<<20); ; buf = make([]byte, 2*len(buf)) {
		if n := goruntime.Stack(buf, true); n < len(buf) {
			return string(buf[:n])
		}
	}
}
