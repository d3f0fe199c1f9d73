//go:build !linux

package local

import (
	"context"
	"errors"
	"net/netip"
	"os"
	"syscall"
	"time"
)

// Nothing of this is reached: findPrograms refuses first, so no daemon ever starts
// and no state names a process.

var errUnsupported = errors.New("local nodes need Linux")

func fileOwner(os.FileInfo) (int, bool)                            { return 0, false }
func peerUser(netip.AddrPort, netip.AddrPort) (int, error)         { return 0, errUnsupported }
func daemonProcAttr() *syscall.SysProcAttr                         { return nil }
func daemonCommand(string, ...string) []string                     { return nil }
func onlyChild(int) int                                            { return 0 }
func processStart(int) (uint64, error)                             { return 0, nil }
func processAlive(int, uint64) bool                                { return false }
func terminate(int) error                                          { return errUnsupported }
func kill(int) error                                               { return errUnsupported }
func endProcess(context.Context, int, uint64, time.Duration) error { return errUnsupported }
func diskSize(string) (int64, error)                               { return 0, errUnsupported }
func sweep(string, string) error                                   { return nil }
func detachedProcAttr() *syscall.SysProcAttr                       { return nil }
func closeOnExec(uintptr)                                          {}
func closeInherited(uintptr) error                                 { return nil }
