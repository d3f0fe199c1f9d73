// Package publish makes what a build has written visible, all of it or nothing.
//
// A build that is to be published as a whole writes everything where nobody takes it for a
// result: images by their digests, files beside their places, archives for an engine into
// temporary files. A [Batch] holds what is then to be done, and [Batch.Publish] does it.
//
// # Tags
//
// Nothing is changed before it is known of every tag what it stands for, and that its image
// is there. Then the tags are set, several at once, each as often as the registry client
// tries. When one cannot be set, or the context ends, those that were set are put back: a tag
// that stood for something is given that again, a new one is deleted. A registry that does
// not delete keeps the new tag; the [Error] names it. A tag that somebody else has moved
// meanwhile is left alone.
//
// Registries know no transactions: who pulls during the sweep, which takes as long as one
// small request for each tag, may see some of the new tags beside old ones.
//
// # Outputs on this machine
//
// They follow when all tags are set, as a tag can be put back more surely than a file: each
// is a rename, or an archive that an engine reads. If one fails, the tags are put back, those
// before it stay, and the Error names them.
package publish
