//go:build !unix

package main

import "io/fs"

// blocks returns how many bytes a file takes.
func blocks(info fs.FileInfo) int64 { return info.Size() }
