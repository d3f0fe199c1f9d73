//go:build unix

package main

import (
	"os"
	"syscall"
)

// replaceProcess replaces this process by a program. It returns only when that fails.
func replaceProcess(name string, args []string) {
	_ = syscall.Exec(name, append([]string{name}, args...), os.Environ()) // starting it otherwise gives the error
}
