package registry

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"syscall"
	"time"

	"github.com/dbake/dbake/internal/pause"
)

// Patience is how long a [Client] waits for registries. Zero fields have the stated
// defaults.
type Patience struct {
	// Silence ends a request on which no byte moves for that long; 0 is 10 s.
	Silence time.Duration
	// Busy is how long requests are repeated that a registry answers with 429
	// or 5xx; 0 is one minute, < 0 asks once.
	Busy time.Duration
	// Away is how long requests are repeated to a registry that cannot be
	// connected to or falls silent; 0 is one minute, < 0 asks once.
	Away time.Duration
}

const (
	defaultSilence = 10 * time.Second
	defaultBudget  = time.Minute
	// firstWait and maxWait bound the waits between tries, each twice as long as
	// the one before.
	firstWait = 500 * time.Millisecond
	maxWait   = 8 * time.Second
	// documentTime bounds one try to read a manifest, a config or a list of
	// tags: a registry that sends a byte now and then is not silent.
	documentTime = 30 * time.Second
)

func (p Patience) withDefaults() Patience {
	if p.Silence <= 0 {
		p.Silence = defaultSilence
	}
	if p.Busy == 0 {
		p.Busy = defaultBudget
	}
	if p.Away == 0 {
		p.Away = defaultBudget
	}
	return p
}

// retry calls try until it succeeds, fails for good, or patience ends. The time
// is counted from the first failure, so that long transfers get another try too.
func (c *Client) retry(ctx context.Context, op, ref string, try func(context.Context) error) error {
	var since time.Time // of the first failure
	host := hostOf(ref)
	for n := 0; ; n++ {
		err := fail(ctx, op, ref, try(ctx))
		if err == nil {
			c.health.set(host, nil)
			return nil
		}
		if ctx.Err() != nil {
			return err
		}
		if n == 0 {
			since = time.Now()
		}
		budget, wait := c.patienceWith(host, err, n)
		if left := budget - time.Since(since); wait > left {
			if budget > 0 {
				c.health.set(host, err)
			}
			return addTries(err, n+1, time.Since(since), wait, left)
		}
		c.note(host, fmt.Sprintf("%s; trying again in %s", Reason(err), wait))
		if err := pause.For(ctx, wait); err != nil {
			return fail(ctx, op, ref, err)
		}
	}
}

// document is retry for a small document.
func (c *Client) document(ctx context.Context, op, ref string, try func(context.Context) error) error {
	return c.retry(ctx, op, ref, func(ctx context.Context) error {
		limited, cancel := context.WithTimeout(ctx, documentTime)
		defer cancel()
		err := try(limited)
		if err != nil && ctx.Err() == nil && limited.Err() != nil {
			return &silentError{For: documentTime}
		}
		return err
	})
}

// patienceWith returns for how long in all a request that failed with err is tried again,
// and the wait before the try that follows n; the budget is 0 when err is final.
func (c *Client) patienceWith(host string, err error, n int) (budget, wait time.Duration) {
	wait = min(firstWait<<min(n, 10), maxWait)
	var busy *busyError
	switch {
	case errors.As(err, &busy):
		budget = c.patience.Busy
		wait = max(wait, busy.After)
	case away(err):
		budget = c.patience.Away
	default:
		return 0, wait
	}
	if c.health.of(host) != nil {
		return 0, wait // the whole of it was spent on this registry before
	}
	return max(budget, 0), wait
}

// addTries adds to err how often and how long it was tried.
func addTries(err error, tries int, took, wait, left time.Duration) error {
	var known *Error
	if !errors.As(err, &known) || tries == 1 && left <= 0 {
		return err
	}
	e := *known
	var busy *busyError
	if errors.As(err, &busy) && busy.After > left && busy.After >= wait {
		e.Tried = fmt.Sprintf("it asks to come again in %s only", busy.After)
	} else if tries > 1 {
		e.Tried = fmt.Sprintf("given up after %d tries in %s", tries, took.Round(time.Second))
	}
	return &e
}

// away reports whether a registry may be reachable a little later.
func away(err error) bool {
	var silent *silentError
	var dns *net.DNSError
	switch {
	case errors.As(err, &silent), errors.Is(err, io.ErrUnexpectedEOF), errors.Is(err, io.EOF):
		return true
	case errors.As(err, &dns):
		return !dns.IsNotFound
	}
	return slices.ContainsFunc([]error{
		syscall.ECONNREFUSED, syscall.ECONNRESET, syscall.ECONNABORTED, syscall.EPIPE,
		syscall.ETIMEDOUT, syscall.EHOSTUNREACH, syscall.ENETUNREACH,
	}, func(target error) bool { return errors.Is(err, target) }) || timeout(err)
}

func timeout(err error) bool {
	var netErr net.Error
	return errors.As(err, &netErr) && netErr.Timeout()
}

// note shows a line, but not the same of one registry for each of many requests.
func (c *Client) note(host, line string) {
	if c.notify != nil && c.health.tell(host, time.Now()) {
		c.notify(line)
	}
}
