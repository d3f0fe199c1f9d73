package simnode

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"github.com/stretchr/testify/require"
)

// An end that is closed shows to who writes no earlier than to who reads. Otherwise gRPC,
// which leaves it to reading to end a connection, would try calls again without a pause, and
// in a bubble what is still to arrive never would.
func TestWriteToAClosedEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wires{latency: time.Second}
		client, server := w.connect()
		_, err := server.Write([]byte("last"))
		require.NoError(t, err)
		require.NoError(t, server.Close())
		_, err = client.Write([]byte("lost"))
		require.NoError(t, err, "what was sent is still to arrive")

		w.silence(true)
		time.Sleep(2 * time.Second)
		_, err = client.Write([]byte("lost"))
		require.NoError(t, err, "nothing passes")
		w.silence(false)

		got, err := io.ReadAll(client)
		require.NoError(t, err)
		require.Equal(t, "last", string(got))
		_, err = client.Write([]byte("late"))
		require.ErrorIs(t, err, io.ErrClosedPipe)
		require.NoError(t, client.Close())
		_, err = client.Write([]byte("own"))
		require.ErrorIs(t, err, io.ErrClosedPipe)
	})
}

// After its own end was closed nothing is written, whatever is still to arrive.
func TestWriteAfterClose(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := wires{latency: time.Second}
		client, server := w.connect()
		_, err := server.Write([]byte("last"))
		require.NoError(t, err)
		require.NoError(t, client.Close())
		_, err = client.Write([]byte("own"))
		require.ErrorIs(t, err, io.ErrClosedPipe)
		require.NoError(t, server.Close())
	})
}
