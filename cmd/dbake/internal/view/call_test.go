package view

import (
	"errors"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
)

// Answers that could not be printed are an error, whatever their status.
func TestCallsReportsLoss(t *testing.T) {
	full := errors.New("no space left on device")
	answers := []*frontend.Called{{Target: &ir.Target{Name: "app"}}}
	_, err := Calls(lossyWriter{full}, answers, true)
	require.ErrorIs(t, err, full)
	_, err = CallsJSON(lossyWriter{full}, &ir.Project{}, answers, true)
	require.ErrorIs(t, err, full)
}

// lossyWriter refuses everything.
type lossyWriter struct{ error }

func (w lossyWriter) Write([]byte) (int, error) { return 0, w.error }
