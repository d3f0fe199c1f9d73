//go:build !unix

package compiler

import "time"

var started = time.Now()

// processTime is the time since the start of the process.
func processTime() time.Duration { return time.Since(started) }
