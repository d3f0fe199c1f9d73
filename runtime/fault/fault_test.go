package fault

import (
	"errors"
	"fmt"
	"net"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
)

func TestWayOf(t *testing.T) {
	way := wayOf("1", []string{"ok", "test 17 took 0.31s", "connection to 10.0.0.7:41234 refused", "", "0xc000123f60: FAIL"})
	require.Equal(t, way, wayOf("1", []string{"test 3 took 12.5s", "connection to 10.0.0.9:5 refused", "0xc0ffee0000: FAIL"}))
	require.NotEqual(t, way, wayOf("2", []string{"test 3 took 12.5s", "connection to 10.0.0.9:5 refused", "0xc0ffee0000: FAIL"}))
	require.NotEqual(t, way, wayOf("1", []string{"test 3 took 12.5s", "connection to 10.0.0.9:5 reset", "0xc0ffee0000: FAIL"}))
	require.Equal(t, wayOf("1", nil), wayOf("1", []string{""}))
	require.Equal(t, wayOf("1", []string{"tests", "refused"}), wayOf("1", []string{"refused", "tests"}))
}

// TestClassify has messages as BuildKit v0.34.2 and what it calls write them.
func TestClassify(t *testing.T) {
	const process = `process "/bin/sh -c make" did not complete successfully: exit code: `
	for _, tt := range []struct {
		err  error
		log  []string
		want string // "step CODE", "sick REASON", "unavailable" or "rejected"
	}{
		{err: errors.New(process + "3"), want: "step 3"},
		{err: errors.New("executor failed running [/bin/sh -c make]: exit code: 2"), want: "step 2"}, // BuildKit v0.8
		{err: errors.New(`process "/bin/sh -c echo 503 Service Unavailable; exit 1" did not complete successfully: exit code: 1`), want: "step 1"},
		{err: errors.New(process + "1"), log: []string{"no space here"}, want: "step 1"},
		{err: errors.New(process + "1"), log: []string{"dd: error writing '/big': No space left on device"}, want: "sick no space left"},
		{err: errors.New(process + "2"), log: []string{"sh: can't fork: Cannot allocate memory"}, want: "sick not enough memory"},
		{err: errors.New(process + "137: cannot allocate memory"), want: "sick not enough memory"},
		{err: errors.New(process + "137"), want: "step 137"},
		{err: errors.New(process + "1"), log: []string{`runc run failed: unable to start container process: error during container init: error mounting "proc" to rootfs at "/proc": operation not permitted`}, want: "sick its container runtime failed"},
		{err: errors.New(process + "127"), log: []string{`runc run failed: unable to start container process: error during container init: exec: "nope": executable file not found in $PATH`}, want: "step 127"},
		{err: errors.New("failed to solve: ResourceExhausted: failed to extract layer sha256:0a: write /var/lib/buildkit/runc-overlayfs/snapshots/snapshots/3/fs/usr/bin/x: no space left on device"), want: "sick no space left"},
		{err: errors.New("failed to walk: resolve : lstat /var/lib/buildkit/runc-overlayfs/snapshots/snapshots/1: no such file or directory"), want: "sick its store is damaged"},
		{err: errors.New("failed to solve: releasing already released reference ijh522ca6qccris0oui4i3mr5::n77cp79bchqg9f2io5ctdpc15"), want: "sick it has a fault"},
		{err: status.Error(codes.ResourceExhausted, "mkdir /var/lib/buildkit/runc-overlayfs/executor/x: no space left on device"), want: "sick no space left"},
		{err: status.Error(codes.ResourceExhausted, "something is used up"), want: "sick it is at a limit"},
		{err: status.Error(codes.Internal, "stream terminated"), want: "sick it has a fault"},
		{err: errors.New(`failed to solve: failed to mount /tmp/buildkit-mount1: [{Type:overlay Source:overlay}]: invalid argument`), want: "sick it cannot mount"},
		{err: errors.New(`exec: "runc": executable file not found in $PATH`), want: "sick it has no container runtime"},
		{err: errors.New("failed to copy: error from receiver: write /home/me/out/x: no space left on device"), want: "rejected"},
		{err: status.Error(codes.Unavailable, "gone"), want: "unavailable"},
		{err: fmt.Errorf("solve: %w", status.Error(codes.Unavailable, "gone")), want: "unavailable"},
		{err: errors.New("rpc error: code = Unavailable desc = gone"), want: "unavailable"},
		{err: errors.New("could not fetch content descriptor sha256:" + strings.Repeat("1", 64) + " (application/vnd.oci.image.layer.v1.tar+gzip) from remote: Canceled: grpc: the client connection is closing: context canceled"), want: "unavailable"},
		{err: &net.OpError{Op: "dial", Err: errors.New("refused")}, want: "unavailable"},
		{err: errors.New("failed to push r.example/app:1: unexpected status from PUT request to https://r.example/v2/app/manifests/1: 502 Bad Gateway"), want: "unavailable"},
		{err: errors.New(`failed to do request: Head "https://r.example/v2/app/manifests/1": dial tcp 10.0.0.1:443: i/o timeout`), want: "unavailable"},
		{err: errors.New("httpReadSeeker: failed open: unexpected status code https://r.example/v2/app/blobs/sha256:0a: 429 Too Many Requests - Server message: toomanyrequests"), want: "unavailable"},
		{err: errors.New("no such job abc"), want: "unavailable"},
		{err: errors.New("no active session for abc: context deadline exceeded"), want: "unavailable"},
		{err: errors.New("pull access denied, repository does not exist or may require authorization: server message: insufficient_scope: authorization failed"), want: "rejected"},
		{err: errors.New(`failed to calculate checksum of ref a::b: "/nope": not found`), want: "rejected"},
		{err: status.Error(codes.InvalidArgument, "bad"), want: "rejected"},
		{err: &NodeSick{Reason: "known", Err: errors.New("503 Service Unavailable")}, want: "sick known"},
	} {
		var failed *StepFailed
		var sick *NodeSick
		var unavailable *Unavailable
		var rejected *Rejected
		err := Classify(tt.err, tt.log)
		require.ErrorIs(t, err, tt.err)
		got := ""
		switch {
		case errors.As(err, &failed):
			got = "step " + failed.ExitCode
		case errors.As(err, &sick):
			got = "sick " + sick.Reason
		case errors.As(err, &unavailable):
			got = "unavailable"
		case errors.As(err, &rejected):
			got = "rejected"
		}
		require.Equal(t, tt.want, got, tt.err)
		require.Equal(t, tt.want == "unavailable", tt.log == nil && Retryable(tt.err), tt.err)
	}
}

// The messages are those of BuildKit v0.34.2.
func TestOfCache(t *testing.T) {
	for text, want := range map[string]bool{
		"failed to configure s3 cache exporter: bucket ($AWS_BUCKET) not set for s3 cache":            true,
		`unknown cache exporter: "bogus"`:                                                             true,
		"error writing layer blob: failed to copy: unexpected status from PUT request: 403 Forbidden": true,
		"error writing manifest blob: unexpected status from PUT request: 500 Internal Server Error":  true,
		"failed to push r.test/app:1: unexpected status from POST request: 403 Forbidden":             false,
		"cannot overwrite a from linux/arm64 with linux/amd64 when split option is disabled":          false,
		"index annotations not supported for single platform export":                                  false,
		"failed to compute cache key: failed to calculate checksum of ref x::y: \"/nope\": not found": false,
	} {
		require.Equal(t, want, OfCache(errors.New(text)), text)
	}
}
