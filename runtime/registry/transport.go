package registry

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"regexp"
	"strconv"
	"sync"
	"sync/atomic"
	"time"
)

// transport sends requests to one host. It ends a request on which no byte moves
// for a while, and turns answers that ask to come later into errors, so that the
// libraries above leave repeating to [Client.retry].
type transport struct {
	next    http.RoundTripper
	network *http.Transport // below next
	silence time.Duration
	waiting func(time.Duration) // called while a write gets no answer
}

// commitSilences is how many times longer than other requests one that writes may
// get no answer: registries check and store what they were sent before they answer.
const commitSilences = 6

// RoundTrip implements http.RoundTripper.
func (t *transport) RoundTrip(req *http.Request) (*http.Response, error) {
	ctx, cancel := context.WithCancelCause(req.Context())
	w := &watch{transport: t, limit: 1, cancel: cancel}
	if req.Method != http.MethodGet && req.Method != http.MethodHead {
		w.limit = commitSilences
	}
	w.begin()
	sent := req.WithContext(ctx)
	if req.Body != nil && req.Body != http.NoBody {
		sent.Body = &watchedBody{ReadCloser: req.Body, watch: w, ended: func() error { return silence(ctx) }}
	}
	resp, err := t.next.RoundTrip(sent)
	if err != nil {
		w.end()
		if cause := silence(ctx); cause != nil && req.Context().Err() == nil {
			err = cause
		}
		return nil, err
	}
	w.noteProgress()
	if !later(resp.StatusCode) {
		resp.Body = &watchedBody{ReadCloser: resp.Body, watch: w, ended: func() error { return silence(ctx) }, last: true}
		return resp, nil
	}
	body, _ := io.ReadAll(io.LimitReader(resp.Body, maxRefusal)) // only to quote it
	resp.Body.Close()
	w.end()
	return nil, &busyError{Status: resp.Status, After: retryAfter(resp.Header.Get("Retry-After")), Message: message(body)}
}

// learning sends requests to a registry that may speak plain HTTP only. Whether it may be
// asked so is found out when it does.
type learning struct {
	*transport
	either *transport // falls back to plain HTTP
	host   string
	may    func(ctx context.Context, repo string) bool
	plain  atomic.Bool // it may
}

// inRepo is the path of a request for something in a repository.
var inRepo = regexp.MustCompile(`^/v2/(.+)/(?:manifests|blobs|tags|referrers)/`)

// RoundTrip implements http.RoundTripper. Other servers, as those that give tokens, are
// asked as their URL says.
func (l *learning) RoundTrip(req *http.Request) (*http.Response, error) {
	if req.URL.Host != l.host {
		return l.transport.RoundTrip(req)
	}
	if l.plain.Load() {
		return l.either.RoundTrip(req)
	}
	resp, err := l.transport.RoundTrip(req)
	repo := inRepo.FindStringSubmatch(req.URL.Path)
	if !SpeaksPlainHTTP(err) || repo == nil || !l.may(req.Context(), l.host+"/"+repo[1]) {
		return resp, err
	}
	l.plain.Store(true)
	again := req.Clone(req.Context())
	if req.Body != nil && req.Body != http.NoBody {
		if req.GetBody == nil {
			return resp, err // it is gone
		}
		if again.Body, err = req.GetBody(); err != nil {
			return nil, err
		}
	}
	return l.either.RoundTrip(again)
}

// maxRefusal bounds what is read of an answer that is only quoted.
const maxRefusal = 64 << 10

// CloseIdleConnections is called by an http.Client's.
func (t *transport) CloseIdleConnections() { t.network.CloseIdleConnections() }

// watch ends a request on which nothing moves.
type watch struct {
	*transport
	limit  int // how many silences in a row end the request
	cancel context.CancelCauseFunc

	mu    sync.Mutex  // guards the fields below
	timer *time.Timer // of the next silence; nil when the request has ended
	count int         // silences in a row
}

// begin starts the watch.
func (w *watch) begin() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.timer = time.AfterFunc(w.silence, w.quiet)
}

// quiet is called after one silence.
func (w *watch) quiet() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer == nil {
		return
	}
	w.count++
	silent := time.Duration(w.count) * w.silence
	if w.count >= w.limit {
		w.cancel(&silentError{For: silent})
		return
	}
	w.waiting(silent)
	w.timer.Reset(w.silence)
}

func (w *watch) noteProgress() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.count = 0
		w.timer.Reset(w.silence)
	}
}

func (w *watch) end() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.timer != nil {
		w.timer.Stop()
		w.timer = nil
	}
	w.cancel(nil)
}

// watchedBody is a body each of whose reads is a sign of life. last is set for
// that of the response, with which the request ends.
type watchedBody struct {
	io.ReadCloser
	watch *watch
	ended func() error // the silence that ended the request, if one did
	last  bool
}

func (b *watchedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if n > 0 {
		b.watch.noteProgress()
	}
	if err != nil && err != io.EOF {
		if cause := b.ended(); cause != nil {
			err = cause
		}
	}
	return n, err
}

func (b *watchedBody) Close() error {
	err := b.ReadCloser.Close()
	if b.last {
		b.watch.end()
	}
	return err
}

// silence returns the silence that ended a request, nil when something else did.
func silence(ctx context.Context) error {
	var silent *silentError
	if errors.As(context.Cause(ctx), &silent) {
		return silent
	}
	return nil
}

// silentError is the end of a request on which nothing moved.
type silentError struct{ For time.Duration }

func (e *silentError) Error() string { return fmt.Sprintf("did not answer within %s", e.For) }

// busyError is an answer that asks to come again later.
type busyError struct {
	Status  string
	After   time.Duration // 0 = not said
	Message string        // the registry's own words; "" = none
}

func (e *busyError) Error() string {
	text := "answered " + e.Status
	if e.Message != "" {
		text += " (" + e.Message + ")"
	}
	return text
}

// later reports whether an answer may be another one soon.
func later(status int) bool {
	switch status {
	case http.StatusRequestTimeout, http.StatusTooManyRequests, http.StatusInternalServerError,
		http.StatusBadGateway, http.StatusServiceUnavailable, http.StatusGatewayTimeout:
		return true
	}
	return false
}

// retryAfter reads the header of that name: seconds, or a date.
func retryAfter(value string) time.Duration {
	if n, err := strconv.Atoi(value); err == nil && n > 0 {
		return time.Duration(n) * time.Second
	}
	if at, err := http.ParseTime(value); err == nil {
		return max(0, time.Until(at))
	}
	return 0
}

// message returns the registry's own words for a refusal, "" when there are none.
func message(body []byte) string {
	var answer struct {
		Errors []struct {
			Message string `json:"message"`
		} `json:"errors"`
	}
	if json.Unmarshal(body, &answer) != nil || len(answer.Errors) == 0 {
		return ""
	}
	return answer.Errors[0].Message
}
