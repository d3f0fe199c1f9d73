package daemon

import (
	"errors"
	"net"
	"testing"

	"github.com/stretchr/testify/require"
)

// deafConn is a connection that can be read and not written.
type deafConn struct{ net.Conn }

var errDeaf = errors.New("broken pipe")

func (deafConn) Read(p []byte) (int, error) { return copy(p, "x"), nil }

func (deafConn) Write([]byte) (int, error) { return 0, errDeaf }

// A link ends when nothing can be sent any more, although it could still be read: gRPC would
// try calls again without a pause. What a peer says that hangs up at once is read first.
func TestLinkEndsWithItsWriter(t *testing.T) {
	var why error
	w := &wire{Conn: deafConn{}, broke: func(err error) { why = err }}
	_, err := w.Write([]byte("hello"))
	require.ErrorIs(t, err, errDeaf)
	require.NoError(t, why)
	_, err = w.Read(make([]byte, 1))
	require.NoError(t, err)
	_, err = w.Write([]byte("hello"))
	require.ErrorIs(t, err, errDeaf)
	require.ErrorIs(t, why, errDeaf)
}
