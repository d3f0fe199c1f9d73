package cost

import (
	"bytes"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

func TestTrials(t *testing.T) {
	path := filepath.Join(t.TempDir(), "history.db")
	s, err := Open(path, Options{})
	require.NoError(t, err)
	step := Step{Key: "k", Kind: Run, Command: "make test"}
	at := func(i int) time.Time { return time.Unix(int64(i), 0) }
	counts := func(s *Store, inputs string) [2]int {
		failed, all := s.Trials(step, inputs)
		return [2]int{failed, all}
	}
	require.Equal(t, [2]int{}, counts(s, "a"))
	s.RecordFailure(step, Failure{Node: "n", When: at(1), Inputs: "a"})
	require.Equal(t, Prior, s.Predict(step).Source, "a failure does not say how long it takes")
	s.Record(step, Sample{Node: "n", Took: time.Second, When: at(2), Inputs: "a"})
	s.Record(step, Sample{Node: "n", Took: time.Second, When: at(3), Inputs: "b"})
	s.RecordFailure(step, Failure{Node: "m", When: at(4), Inputs: "a"})
	s.RecordFailure(step, Failure{Node: "m", When: at(4), Inputs: "a"}) // known
	require.Equal(t, [2]int{2, 3}, counts(s, "a"))
	require.Equal(t, [2]int{0, 1}, counts(s, "b"))
	require.Equal(t, [2]int{}, counts(s, ""), "what it ran on is not known")
	require.Equal(t, Measured, s.Predict(step).Source)

	require.NoError(t, s.Flush())
	again, err := Open(path, Options{})
	require.NoError(t, err)
	require.Equal(t, [2]int{2, 3}, counts(again, "a"))

	var lines bytes.Buffer
	require.NoError(t, again.Export(&lines))
	other, err := Open(InMemory, Options{})
	require.NoError(t, err)
	for range 2 {
		_, err = other.Import(bytes.NewReader(lines.Bytes()))
		require.NoError(t, err)
		require.Equal(t, [2]int{2, 3}, counts(other, "a"))
	}

	for i := range 2 * maxSamples {
		s.RecordFailure(step, Failure{Node: "n", When: at(100 + i), Inputs: "b"})
	}
	require.Equal(t, [2]int{maxSamples, maxSamples + 1}, counts(s, "b"), "the latest are kept")
	require.Equal(t, [2]int{0, 1}, counts(s, "a"))
}
