package cost

import (
	"bytes"
	"fmt"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
	bolt "go.etcd.io/bbolt"
)

// What nodes reported of their machines is kept with the steps, and travels with them.
func TestMachinesAreKept(t *testing.T) {
	name := filepath.Join(t.TempDir(), "history.db")
	told := time.Unix(1_700_000_000, 0).UTC()
	m := Machine{Cores: 2, Memory: 8e9, Boot: told.Add(-time.Hour), When: told}
	s, err := Open(name, Options{})
	require.NoError(t, err)
	s.RecordMachine("tcp://a:1", m)
	old := m
	old.Cores, old.When = 1, told.Add(-time.Hour)
	s.RecordMachine("tcp://a:1", old) // the last report counts
	s.RecordMachine("tcp://b:1", Machine{})
	s.RecordMachine("", m)
	require.NoError(t, s.Close())

	s, err = Open(name, Options{})
	require.NoError(t, err)
	got, ok := s.Machine("tcp://a:1")
	require.True(t, ok)
	require.Equal(t, m, got)
	_, ok = s.Machine("tcp://b:1")
	require.False(t, ok)

	var lines bytes.Buffer
	require.NoError(t, s.Export(&lines))
	other, err := Open(InMemory, Options{})
	require.NoError(t, err)
	n, err := other.Import(bytes.NewReader(lines.Bytes()))
	require.NoError(t, err)
	require.Zero(t, n, "no steps")
	got, ok = other.Machine("tcp://a:1")
	require.True(t, ok)
	require.True(t, got.Same(m))
	var again bytes.Buffer
	require.NoError(t, other.Export(&again))
	require.Equal(t, lines.String(), again.String())
}

func TestMachinesAreBounded(t *testing.T) {
	name := filepath.Join(t.TempDir(), "history.db")
	s, err := Open(name, Options{})
	require.NoError(t, err)
	for i := range 2*maxMachines + 5 {
		s.RecordMachine(fmt.Sprint(i), Machine{Cores: 1, When: time.Unix(int64(i), 0)})
	}
	require.LessOrEqual(t, len(s.machines), 2*maxMachines)
	require.NoError(t, s.Close())
	db, err := bolt.Open(name, 0o600, nil)
	require.NoError(t, err)
	defer db.Close()
	require.NoError(t, db.View(func(tx *bolt.Tx) error {
		require.Equal(t, maxMachines, tx.Bucket(machinesBucket).Stats().KeyN)
		require.NotNil(t, tx.Bucket(machinesBucket).Get([]byte(fmt.Sprint(2*maxMachines+4))))
		return nil
	}))
}

// A sample with what a step used is read as it was written; one of before is read, too.
func TestUsageOfSamples(t *testing.T) {
	s, err := Open(InMemory, Options{})
	require.NoError(t, err)
	step := Step{Key: "k", Kind: Run, Command: "make"}
	for i, cpu := range []time.Duration{0, 2 * time.Second, 3 * time.Second, 100 * time.Second} {
		s.Record(step, Sample{Node: "a", Took: 4 * time.Second, When: time.Unix(int64(i), 0), CPU: cpu, Memory: int64(i) << 30})
	}
	p := s.Predict(step)
	require.InDelta(t, 0.75, p.Cores, 1e-9)
	require.Equal(t, int64(3)<<30, p.Memory)

	r := s.steps["k"]
	read, err := decode(r.encode())
	require.NoError(t, err)
	require.Equal(t, r, read)

	before := (&record{kind: Run, samples: []Sample{{Node: "a", Took: 1, When: time.Unix(0, 5).UTC()}}}).encode()
	end := len(before)
	third := append([]byte{3}, slices.Delete(slices.Clone(before[1:]), end-3, end-2)...) // without Mounts
	read, err = decode(third)
	require.NoError(t, err)
	require.Equal(t, time.Duration(1), read.samples[0].Took)
	second := append([]byte{2}, before[1:end-3]...) // and without Inputs and failures
	read, err = decode(second)
	require.NoError(t, err)
	require.Equal(t, time.Duration(1), read.samples[0].Took)
	before = append([]byte{1}, before[1:end-5]...) // and without CPU and Memory
	read, err = decode(before)
	require.NoError(t, err)
	require.Equal(t, time.Duration(1), read.samples[0].Took)
	require.Zero(t, read.samples[0].CPU)
}
