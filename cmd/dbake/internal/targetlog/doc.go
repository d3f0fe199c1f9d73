// Package targetlog writes the log of every target of a run to a file of its own: the
// output of its steps, from beginning to end, and its result.
//
// The files of a run are in one directory, which [Open] makes sure no other process writes
// to: several at once get directories of their own below the one that was named. A file of
// an earlier run stays until its target is built again. Names of targets become file names
// without special meaning to a file system.
//
// Events are taken in without waiting for the disk: one goroutine writes. Logs have no
// control characters but colours, and no passwords. A very long log keeps its beginning and
// its end, and a disk that is full or stuck costs the logs, not the build.
package targetlog
