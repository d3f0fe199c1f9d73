//go:build !unix

package stopwatch

import "time"

// ProcessTime is 0: the system does not say.
func ProcessTime() time.Duration { return 0 }
