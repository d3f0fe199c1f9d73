//go:build unix

package main

import (
	"os"
	"syscall"
)

// replaceProcess has a program take the place of this one. It returns when that
// cannot be done.
func replaceProcess(name string, args []string) {
	_ = syscall.Exec(name, append([]string{name}, args...), os.Environ()) // starting it otherwise gives the error
}
