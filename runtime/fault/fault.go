package fault

import (
	"errors"
	"fmt"
	"io"
	"net"
	"regexp"
	"slices"
	"strings"
	"sync"
	"syscall"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

// Unavailable is a failure of the surroundings: of a connection, or of a registry
// that a node talks to. Another attempt may succeed, on the same node as well.
type Unavailable struct{ Err error }

func (e *Unavailable) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Unavailable) Unwrap() error { return e.Err }

// NodeSick is a failure of the node itself, as for want of space. Another node may
// succeed where it failed.
type NodeSick struct {
	// Reason is what is wrong with the node, in a few words.
	Reason string
	Err    error
}

func (e *NodeSick) Error() string {
	return fmt.Sprintf("%v (the node has a problem: %s)", e.Err, e.Reason)
}

// Unwrap returns the cause.
func (e *NodeSick) Unwrap() error { return e.Err }

// StepFailed is the failure of a step that ran and ended with an exit code. It would
// fail again, unless the step is flaky: see Options.RetrySteps of runtime/sched.
type StepFailed struct {
	ExitCode string // as BuildKit writes it
	// Way is equal for failures with the same exit code and the same last output, but for
	// numbers, which may be times, ports and the like.
	Way string
	Err error
}

func (e *StepFailed) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *StepFailed) Unwrap() error { return e.Err }

// Rejected is any other failure: the request was refused or is wrong. It would be refused
// again.
type Rejected struct{ Err error }

func (e *Rejected) Error() string { return e.Err.Error() }

// Unwrap returns the cause.
func (e *Rejected) Unwrap() error { return e.Err }

// exitCode finds the exit code in the failure of a step; the second form is that of BuildKit
// before v0.10, which is inside Docker 20.10.
var exitCode = pattern(`(?:did not complete successfully|executor failed running \[(?s:.*)\]): exit code: (\d+)(: .*)?`)

// sign is a piece of text by which a failure is known, in lower case.
type sign struct{ text, reason string }

// The signs stand in messages of BuildKit v0.34.2 and of what it calls: runc,
// containerd's snapshotters and registry client, the kernel. Errors lose their type
// on the way through gRPC, so that only the text is left.
var (
	// sickSigns mean that the node could not do its part.
	sickSigns = []sign{
		{"no space left on device", "no space left"},
		{"disk quota exceeded", "its disk quota is used up"},
		{"cannot allocate memory", "not enough memory"},
		{"too many open files", "too many open files"},
		{"too many links", "its file system is at a limit"},
		{"input/output error", "its disk has errors"},
		{"structure needs cleaning", "its file system is damaged"},
		{"read-only file system", "its file system is read-only"},
		{"resource temporarily unavailable", "it is at a limit of processes or memory"},
		{"oci runtime create failed", "its container runtime failed"},
		{"runc run failed: unable to start container process: error during container init", "its container runtime failed"},
		{"runc create failed", "its container runtime failed"},
		{"failed to create shim", "its container runtime failed"},
		{"failed to mount", "it cannot mount"},
		{"error mounting", "it cannot mount"},
		{"failed to prepare snapshot", "its snapshotter failed"},
		{"snapshotter", "its snapshotter failed"},
		{"/snapshots/snapshots/", "its store is damaged"},          // containerd's, as after a full disk
		{"releasing already released reference", "it has a fault"}, // solver/result.go, as after a full disk
		{"database not open", "its database is closed"},
		{"metadata.db", "its database failed"},
		{"panic:", "it has a fault"},
	}
	// loggedSigns are those of them that count in the output of a step that ended
	// with an exit code: the step could not go on because of the node.
	loggedSigns = []sign{
		{"no space left on device", "no space left"},
		{"disk quota exceeded", "its disk quota is used up"},
		{"cannot allocate memory", "not enough memory"},
		{"runc run failed: unable to start container process: error during container init", "its container runtime failed"},
		{"oci runtime create failed", "its container runtime failed"},
	}
	// absentRuntime is the failure of a daemon that does not find its runtime.
	absentRuntime = pattern(`exec: "(buildkit-)?(runc|crun)": executable file not found`)
	// stepSigns make a failure of the runtime one of the step: the program that it
	// names does not exist.
	stepSigns = []string{"executable file not found in $path", ": no such file or directory: unknown", "exec format error", "permission denied: unknown"}
	// clientSigns mean that this machine could not go on.
	clientSigns = []string{"error from receiver:", "error from sender:", inputSign}
	// passingSigns mean that a node was away for a moment.
	passingSigns = []string{
		"code = unavailable",
		unregisteredSign,
		"no active session", // the connection broke under the session
	}
	// registrySigns mean that a registry, or another server that a node asks, is away or
	// wants to be asked later. A name that does not exist and a certificate that is not
	// trusted are not among them.
	registrySigns = []string{
		"408 request timeout", "429 too many requests", "toomanyrequests",
		"500 internal server error", "502 bad gateway", "503 service unavailable", "504 gateway timeout",
		"tls handshake timeout", "timeout awaiting response headers", "i/o timeout",
		"connection reset by peer", refusedSign, "broken pipe", "unexpected eof",
		"no route to host", "network is unreachable", "connection timed out",
		"temporary failure in name resolution", "server misbehaving",
		"net/http: request canceled while waiting", "http2: server sent goaway", "http2: client connection lost",
	}
	// silenceSigns mean that a server took a connection and then was silent.
	silenceSigns = []string{"tls handshake timeout", "timeout awaiting response headers"}
	// answerSigns mean that a registry gave an answer, be it a refusal.
	answerSigns = []string{": not found", "pull access denied", "authorization failed", "unexpected status"}
)

// refusedSign is among registrySigns, see [RefusedBy].
const refusedSign = "connection refused"

// unregisteredSign is among passingSigns, see [Unregistered].
const unregisteredSign = "no such job"

// Classify gives a failure on a node its type: [*StepFailed], [*NodeSick],
// [*Unavailable] or [*Rejected]. log is the last output of the step that failed.
// This is the one place where text is looked at.
func Classify(err error, log []string) error {
	var unavailable *Unavailable
	var sick *NodeSick
	var failed *StepFailed
	var rejected *Rejected
	if errors.As(err, &unavailable) || errors.As(err, &sick) || errors.As(err, &failed) || errors.As(err, &rejected) {
		return err
	}
	text := strings.ToLower(err.Error())
	if m := exitCode().FindStringSubmatch(text); m != nil {
		if strings.Contains(m[2], "cannot allocate memory") {
			return &NodeSick{Reason: "not enough memory", Err: err}
		}
		if reason := find(loggedSigns, strings.ToLower(strings.Join(log, "\n"))); reason != "" {
			return &NodeSick{Reason: reason, Err: err}
		}
		return &StepFailed{ExitCode: m[1], Way: wayOf(m[1], log), Err: err}
	}
	if OfInput(err) && strings.Contains(text, ErrWentAway.Error()) {
		return &Unavailable{err} // the next transfer is of what is there then
	}
	if containsAny(text, clientSigns) {
		return &Rejected{err}
	}
	if transport(err) || containsAny(text, passingSigns) || awaySigns(text) || brokenOff().MatchString(text) {
		return &Unavailable{err}
	}
	if reason := find(sickSigns, text); reason != "" {
		return &NodeSick{Reason: reason, Err: err}
	}
	switch status.Code(err) {
	case codes.ResourceExhausted:
		return &NodeSick{Reason: "it is at a limit", Err: err}
	case codes.Internal, codes.DataLoss:
		return &NodeSick{Reason: "it has a fault", Err: err}
	}
	return &Rejected{err}
}

// wayLines is how many of the last lines of its output make up the way in which a step
// failed.
const wayLines = 3

// varying is what differs between two failures of one kind: numbers, also in base 16.
var varying = pattern(`0x[0-9a-fA-F]+|\b[0-9a-fA-F]*[0-9][0-9a-fA-F]*|[0-9]+`)

// wayOf names the way in which a step failed that printed log. The order of the last lines
// does not count: standard output and standard error come apart, either of them first.
func wayOf(code string, log []string) string {
	var last []string
	for _, line := range slices.Backward(log) {
		if line = strings.TrimSpace(varying().ReplaceAllString(line, "0")); line == "" {
			continue
		}
		if last = append(last, line); len(last) == wayLines {
			break
		}
	}
	slices.Sort(last)
	return code + "\n" + strings.Join(last, "\n")
}

// find returns the reason of the first sign in text, "" when there is none.
func find(signs []sign, text string) string {
	switch {
	case absentRuntime().MatchString(text):
		return "it has no container runtime"
	case containsAny(text, stepSigns):
		return ""
	}
	for _, s := range signs {
		if strings.Contains(text, s.text) {
			return s.reason
		}
	}
	return ""
}

func containsAny(text string, list []string) bool {
	for _, s := range list {
		if strings.Contains(text, s) {
			return true
		}
	}
	return false
}

// transport reports whether the connection to a node or registry failed.
func transport(err error) bool {
	if s, ok := status.FromError(err); ok && s.Code() == codes.Unavailable {
		return true
	}
	var op *net.OpError
	return errors.As(err, &op) || errors.Is(err, syscall.ECONNRESET) || errors.Is(err, io.ErrUnexpectedEOF)
}

// Retryable reports whether another attempt may succeed, on the same node as well.
func Retryable(err error) bool {
	var e *Unavailable
	return errors.As(Classify(err, nil), &e)
}

// RegistryAway reports whether a node failed because a registry is away or wants to
// be asked later.
func RegistryAway(err error) bool {
	text := strings.ToLower(err.Error())
	return !transport(err) && !containsAny(text, passingSigns) && awaySigns(text) && Retryable(err)
}

func awaySigns(text string) bool {
	return strings.HasSuffix(text, ": eof") || containsAny(text, registrySigns)
}

// cacheSigns mean that an export failed because of a cache that is written with an output.
var cacheSigns = []string{" cache exporter: ", "unknown cache exporter", "error writing layer blob", "error writing config blob", "error writing manifest blob"}

// OfCache reports whether an export failed because of its cache, not of its output.
func OfCache(err error) bool { return containsAny(strings.ToLower(err.Error()), cacheSigns) }

// AnsweredByRegistry reports whether a registry has answered the node that failed
// with err, be it with a refusal.
func AnsweredByRegistry(err error) bool {
	return containsAny(strings.ToLower(err.Error()), answerSigns)
}

// SilentServer reports whether a node failed because a server took its connection and
// then was silent.
func SilentServer(err error) bool {
	return containsAny(strings.ToLower(err.Error()), silenceSigns)
}

// RefusedBy reports whether a node failed because nobody listens where it asked one of some
// servers, which are named as in URLs, with a port if they have one.
func RefusedBy(err error, hosts ...string) bool {
	text := strings.ToLower(err.Error())
	return strings.Contains(text, refusedSign) && slices.ContainsFunc(hosts, func(host string) bool {
		return host != "" && strings.Contains(text, "://"+strings.ToLower(host)+"/")
	})
}

// Unregistered reports whether a node gave a build up before it had registered.
func Unregistered(err error) bool { return strings.Contains(err.Error(), unregisteredSign) }

// DigestMismatch reports whether a source holds something else than its digest says.
func DigestMismatch(err error) bool { return strings.Contains(err.Error(), "digest mismatch") }

// lostBlob finds the blob that a node could not fetch, or that was not what it should be.
var lostBlob = pattern(`could not fetch content descriptor (sha256:[0-9a-f]{64})|unexpected commit digest sha256:[0-9a-f]{64}, expected (sha256:[0-9a-f]{64})|failed commit on ref "[^"]*(sha256:[0-9a-f]{64})"`)

// brokenOff is a fetch that ended with the build that had begun it, although others waited for
// it. Nothing is lost.
var brokenOff = pattern(`(?i)could not fetch content descriptor sha256:[0-9a-f]{64}.*(the client connection is closing|context canceled)`)

// LostBlob returns the blob whose loss err reports; ok is false when it reports
// something else.
func LostBlob(err error) (blob string, ok bool) {
	if err == nil || brokenOff().MatchString(err.Error()) {
		return "", false
	}
	for _, found := range lostBlob().FindStringSubmatch(err.Error()) {
		if strings.HasPrefix(found, "sha256:") && len(found) == len("sha256:")+64 {
			return found, true
		}
	}
	return "", false
}

// Plain returns err in plain words: without the layers that only report that a solve
// failed.
func Plain(err error) error {
	text := err.Error()
	if short := wrapping().ReplaceAllString(text, ""); short != text {
		return &plainError{text: short, err: err}
	}
	return err
}

type plainError struct {
	text string
	err  error
}

func (e *plainError) Error() string { return e.text }
func (e *plainError) Unwrap() error { return e.err }

// wrapping matches text that only reports that a solve failed.
var wrapping = pattern(`failed to run Build function: |failed to solve: |rpc error: code = \w+ desc = `)

// pattern compiles an expression when it is first asked for: most runs end without a
// failure.
func pattern(expr string) func() *regexp.Regexp {
	return sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(expr) })
}
