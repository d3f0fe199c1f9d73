// Package targetlog writes the log of every target of a run to a file of its own: what
// its steps printed, from their beginning to their end, and what became of it.
//
// The files of a run are in one directory, which [Open] makes sure no other process
// writes to: several at once get directories of their own below the one that was named.
// A file of an earlier run stays until its target is built again. Names of targets
// become names of files that mean nothing to a file system.
//
// Events are taken in without waiting for the disk: one goroutine writes. What is
// written has no control characters but colours, and no passwords. Of a log that is
// longer than anybody reads the beginning and the end are written, and a disk that is
// full or stuck costs the logs, not the build.
package targetlog
