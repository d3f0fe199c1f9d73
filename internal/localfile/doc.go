// Package localfile writes and reads files of this machine that may be something else
// than they are taken for.
//
// A user's file name can lead to more than a file. [Create] follows symbolic links
// and looks at what they end in:
//
//   - nothing, or a regular file: the content is written beside it and takes its
//     place with [File.Commit], so that what fails leaves the file as it was. The new
//     file has the mode and the owner of the old one; one that is new has the mode
//     0666 without the umask. Where no file can be made beside it, or the owner could
//     not be kept, the old file is overwritten in place;
//   - a pipe, a device, or a descriptor that was given to the process (/dev/fd/3,
//     /dev/stdout): the content is written there as it comes. Such a place is a
//     stream: what was written cannot be taken back.
//
// Nothing waits for ever: a named pipe without a reader, and a reader that does not
// read, are waited for until the context ends.
//
// [Replace] and [Read] are for files that only this program knows, as those of a cache.
package localfile
