//go:build !unix

package main

// replaceProcess does nothing: a process cannot be replaced here.
func replaceProcess(string, []string) {}
