package warm

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"time"

	digest "github.com/opencontainers/go-digest"
	"github.com/stretchr/testify/require"
)

var t0 = time.Unix(1_700_000_000, 0)

func TestLedgerRemembersByAddressAndID(t *testing.T) {
	l := Ledger{Dir: filepath.Join(t.TempDir(), "warm")}
	a, b := digest.FromString("a"), digest.FromString("b")
	require.NoError(t, l.Add("tcp://x:1", "id1", []digest.Digest{a}, t0))
	require.NoError(t, l.Add("tcp://x:1", "id1", []digest.Digest{b}, t0))
	require.NoError(t, l.Add("tcp://y:1", "id2", []digest.Digest{b}, t0))

	held, err := l.Holds("tcp://x:1", "id1")
	require.NoError(t, err)
	require.Equal(t, map[digest.Digest]bool{a: true, b: true}, held)

	// A plan that asks no node does not know the id.
	held, err = l.Holds("tcp://y:1", "")
	require.NoError(t, err)
	require.Equal(t, map[digest.Digest]bool{b: true}, held)

	// A node with a new root has a new id, and nothing else.
	held, err = l.Holds("tcp://x:1", "other")
	require.NoError(t, err)
	require.Empty(t, held)
	require.NoError(t, l.Add("tcp://x:1", "other", []digest.Digest{b}, t0))
	held, err = l.Holds("tcp://x:1", "other")
	require.NoError(t, err)
	require.Equal(t, map[digest.Digest]bool{b: true}, held)
}

func TestZeroLedgerRemembersNothing(t *testing.T) {
	var l Ledger
	require.NoError(t, l.Add("a", "id", []digest.Digest{digest.FromString("a")}, t0))
	held, err := l.Holds("a", "id")
	require.NoError(t, err)
	require.Empty(t, held)
}

func TestDamagedFileIsAsNone(t *testing.T) {
	l := Ledger{Dir: t.TempDir()}
	require.NoError(t, os.WriteFile(l.path("a"), []byte("{"), 0o644))
	held, err := l.Holds("a", "")
	require.NoError(t, err)
	require.Empty(t, held)
	require.NoError(t, l.Add("a", "id", []digest.Digest{digest.FromString("a")}, t0))
	held, err = l.Holds("a", "id")
	require.NoError(t, err)
	require.Len(t, held, 1)
}

func TestOldestStepsGoFirst(t *testing.T) {
	f := file{Steps: map[digest.Digest]int64{}}
	for i := range maxSteps + 10 {
		f.Steps[digest.FromString(fmt.Sprint(i))] = int64(i)
	}
	f.trim()
	require.Len(t, f.Steps, maxSteps)
	require.NotContains(t, f.Steps, digest.FromString("9"))
	require.Contains(t, f.Steps, digest.FromString("10"))
}
