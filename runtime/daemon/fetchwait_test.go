package daemon

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	bkclient "github.com/moby/buildkit/client"
	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/runtime/fault"
)

// What a node is at before the build is shown while it lasts, and given up when nothing is
// heard of it for long.
func TestFetchWait(t *testing.T) {
	vertex := func(name string, ends bool) *bkclient.SolveStatus {
		now := time.Now()
		v := &bkclient.Vertex{Digest: digest.FromString(name), Name: name, Started: &now}
		if ends {
			v.Completed = &now
		}
		return &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{v}}
	}
	follow := func(t *testing.T, give func(status chan<- *bkclient.SolveStatus)) (notes []string, err error) {
		synctest.Test(t, func(t *testing.T) {
			ctx, giveUp := context.WithCancelCause(t.Context())
			defer giveUp(nil)
			w := fetchWait{note: func(text string) { notes = append(notes, text) }, giveUp: giveUp}
			status := make(chan *bkclient.SolveStatus)
			done := make(chan struct{})
			go func() {
				defer close(done)
				w.follow(status)
			}()
			give(status)
			close(status)
			<-done
			err = context.Cause(ctx)
		})
		return notes, err
	}
	notes, err := follow(t, func(status chan<- *bkclient.SolveStatus) {
		status <- vertex("[internal] fetch https://user:canary@git.test/x", false)
		time.Sleep(5 * time.Second)
		status <- vertex("quick", false)
		time.Sleep(4 * time.Second)
		status <- vertex("quick", true)
		time.Sleep(16 * time.Second)
		status <- vertex("[internal] fetch https://user:canary@git.test/x", true)
		time.Sleep(time.Hour) // nothing is open
	})
	require.NoError(t, err)
	require.Len(t, notes, 2)
	require.Regexp(t, `^waiting for fetch https://.*@git.test/x \(10s\)$`, notes[0])
	require.NotContains(t, notes[0], "canary")
	require.Regexp(t, `\(20s\)$`, notes[1])

	notes, err = follow(t, func(status chan<- *bkclient.SolveStatus) {
		status <- vertex("fetch", false)
		for range 20 { // it says that it is alive
			time.Sleep(longestFetch - time.Second)
			status <- &bkclient.SolveStatus{Logs: []*bkclient.VertexLog{{Data: []byte("receiving objects\n")}}}
		}
		time.Sleep(longestFetch + fetchShown)
	})
	var rejected *fault.Rejected
	require.True(t, errors.As(err, &rejected))
	require.Regexp(t, `^fetch: no progress for 10m`, err.Error())
	require.NotEmpty(t, notes)
}

// With an error go the lines of what failed, and of what did not end, not those of what
// succeeded before.
func TestFetchWaitComplaints(t *testing.T) {
	w := fetchWait{giveUp: func(error) {}}
	status := make(chan *bkclient.SolveStatus)
	done := make(chan struct{})
	go func() {
		defer close(done)
		w.follow(status)
	}()
	now := time.Now()
	print := func(name, text string, ended bool, failure string) {
		v := &bkclient.Vertex{Digest: digest.FromString(name), Started: &now, Error: failure}
		if ended {
			v.Completed = &now
		}
		status <- &bkclient.SolveStatus{Vertexes: []*bkclient.Vertex{v}, Logs: []*bkclient.VertexLog{{Vertex: v.Digest, Data: []byte(text)}}}
	}
	print("refs", "abc refs/heads/main\n", true, "")
	print("fetch", "fatal: no such ref\nhint: none\n", true, "exit status 128")
	print("frontend", "panic\n", false, "")
	close(status)
	<-done
	require.Equal(t, []string{"fatal: no such ref", "hint: none", "panic"}, w.complaints())
}
