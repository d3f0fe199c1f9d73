// Package output writes what nodes export to where a target's outputs say.
//
// [All] translates the outputs of a target into BuildKit's terms, by the rules of docker
// buildx. A [Writing] is one attempt to write one of them on this machine: what comes of it is
// seen under its name only when it is whole. An output that is withheld ([Withhold]) is kept
// beside its place or without its name, until a batch of package publish puts it there.
//
// A node answers an export with a few facts; [MetadataOf] makes of them what the metadata
// file shows of a target, and an [Image] is what they say of an image.
package output
