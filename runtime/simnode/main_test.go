package simnode_test

import (
	"io"
	"testing"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
)

// TestMain fails when a test leaves a goroutine behind.
func TestMain(m *testing.M) {
	logrus.SetOutput(io.Discard) // BuildKit's client remarks on what the faults do to it
	goleak.VerifyTestMain(m)
}
