package quietstart

import (
	"runtime"
	"runtime/debug"
	"testing"

	"github.com/stretchr/testify/require"
)

// What was put off for the start is as usual from the first collection on.
func TestAfterCollection(t *testing.T) {
	done := make(chan int)
	afterCollection(func() { done <- debug.SetGCPercent(100) })
	runtime.GC()
	<-done
	runtime.GC()
	require.Equal(t, 100, debug.SetGCPercent(100))
}
