//go:build !integration

package daemon

import (
	"testing"

	"go.uber.org/goleak"
)

// TestMain fails when a test leaves a goroutine behind. So does that of the tests with
// daemons.
func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }
