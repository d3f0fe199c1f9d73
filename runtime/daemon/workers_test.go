package daemon

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"time"

	controlapi "github.com/moby/buildkit/api/services/control"
	apitypes "github.com/moby/buildkit/api/types"
	"github.com/stretchr/testify/require"
	"google.golang.org/grpc"

	"github.com/dbake/dbake/runtime/nodeset"
)

// listingDaemon is a daemon that lists its workers, and counts how often.
type listingDaemon struct {
	controlapi.UnimplementedControlServer
	fails atomic.Bool
	asked atomic.Int64
}

func (d *listingDaemon) ListWorkers(context.Context, *controlapi.ListWorkersRequest) (*controlapi.ListWorkersResponse, error) {
	d.asked.Add(1)
	if d.fails.Load() {
		return nil, errors.New("not now")
	}
	record := &apitypes.WorkerRecord{ID: "w", Labels: map[string]string{DrainLabel: "true"}, BuildkitVersion: &apitypes.BuildkitVersion{Version: "v1.2.3"}}
	return &controlapi.ListWorkersResponse{Record: []*apitypes.WorkerRecord{record}}, nil
}

// open returns a link to the daemon.
func (d *listingDaemon) open(t *testing.T) *link {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	require.NoError(t, err)
	srv := grpc.NewServer()
	controlapi.RegisterControlServer(srv, d)
	done := make(chan error, 1)
	go func() { done <- srv.Serve(listener) }()
	t.Cleanup(func() {
		srv.Stop()
		require.NoError(t, <-done)
	})
	l, err := openLink(t.Context(), nodeset.Spec{Name: "n", Addr: "tcp://" + listener.Addr().String()}, time.Minute, func(time.Duration) {})
	require.NoError(t, err)
	t.Cleanup(l.close)
	return l
}

// A daemon is asked for its workers when a link to it is opened, and not for each build.
func TestWorkersAreAskedForOnce(t *testing.T) {
	d := &listingDaemon{}
	l := d.open(t)
	d.fails.Store(true)
	_, err := l.client.ListWorkers(l.workers.recall(t.Context()))
	require.Error(t, err)
	d.fails.Store(false)

	info, err := l.probe(t.Context(), l.spec)
	require.NoError(t, err)
	require.Equal(t, "v1.2.3", info.Version, "the answer says it all")
	require.EqualValues(t, 2, d.asked.Load(), "an error is no answer")

	for range 2 {
		workers, err := l.client.ListWorkers(l.workers.recall(t.Context()))
		require.NoError(t, err)
		require.Len(t, workers, 1)
		require.Equal(t, "w", workers[0].ID)
		workers[0].Labels[DrainLabel] = "false" // the caller's own
	}
	require.EqualValues(t, 2, d.asked.Load())

	// Whether it drains is asked anew as soon as the answer is not fresh.
	s := &solver{link: l}
	on, err := s.Drains(t.Context())
	require.NoError(t, err)
	require.True(t, on)
	require.EqualValues(t, 2, d.asked.Load())
	l.workers.at = l.workers.at.Add(-workersFresh)
	_, err = s.Drains(t.Context())
	require.NoError(t, err)
	require.EqualValues(t, 3, d.asked.Load())
}
