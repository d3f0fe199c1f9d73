//go:build !linux

package main

func initStatus() (status int, first bool) { return 0, false }
