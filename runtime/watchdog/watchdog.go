package watchdog

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/dbake/dbake/internal/pause"
)

const (
	// probeInterval is how often a silent peer is looked at. A timeout that is
	// short makes it shorter.
	probeInterval = time.Second
	// ReportInterval is after how long, and how often, silence is reported.
	ReportInterval = 3 * time.Second
)

// SilenceError reports that a node was asked and did not answer.
type SilenceError struct{ For time.Duration }

func (e *SilenceError) Error() string { return fmt.Sprintf("no answer within %s", e.For) }

// Watch looks after one connection.
type Watch struct {
	Timeout  time.Duration
	Received func() int64 // bytes so far
	Probe    func(context.Context)
	Silent   func(time.Duration)
	Fail     context.CancelCauseFunc
}

// Run makes a node that says nothing talk, and ends the connection when it does not
// for the whole timeout. It returns when ctx ends.
//
// Everything that is received is a sign of life, whatever it is: a daemon that is
// too busy to answer soon is not dead. Time is counted in ticks of our own: when
// this machine slept, or was itself too busy, nobody is to blame for it.
func (w Watch) Run(ctx context.Context) {
	every := min(probeInterval, max(w.Timeout/5, time.Millisecond))
	tick := time.NewTicker(every)
	defer tick.Stop()
	var probes sync.WaitGroup
	defer probes.Wait()
	probing := make(chan struct{}, 1)
	var heard int64
	var quiet, shown time.Duration
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		if now := w.Received(); now != heard {
			if heard, quiet = now, 0; shown > 0 {
				shown = 0
				w.Silent(0)
			}
			continue
		}
		quiet += every
		if quiet >= w.Timeout {
			w.Fail(&SilenceError{For: w.Timeout})
			return
		}
		if quiet >= shown+ReportInterval {
			shown = quiet
			w.Silent(quiet)
		}
		select {
		case probing <- struct{}{}:
			probes.Go(func() {
				w.Probe(ctx)
				<-probing
			})
		default: // the last one has not been answered
		}
	}
}

// stopGrace is how long a node may take to end what was interrupted before the
// connection is broken off, which ends it there as well.
const stopGrace = 2 * time.Second

// Hurry calls f when ctx has ended and the function that it returns is not called
// within stopGrace.
func Hurry(ctx context.Context, f func()) (done func()) {
	over, cancel := context.WithCancel(context.Background())
	stop := context.AfterFunc(ctx, func() {
		if pause.For(over, stopGrace) == nil {
			f()
		}
	})
	return func() {
		stop()
		cancel()
	}
}
