// Package imagekey names the image of a target by what goes into it, and remembers
// which images were pushed under which names: what has not changed need not be built.
//
// # The key
//
// A [Key] is the digest of labelled lines. What counts:
//
//   - for each platform, the result of its steps ([plan.Makeup]): every operation of
//     the canonical graph with its build args, environment, network and mounts, the
//     digests of base images, and names, modes, links, extended attributes and contents
//     of the files that each step reads, as a node compares them;
//   - the image config, with labels and history, and what the frontend said besides;
//   - the attributes of the output: compression, annotations, media types,
//     rewrite-timestamp; SOURCE_DATE_EPOCH and the BUILDKIT_ args;
//   - which attestations there are, and the scan for an SBOM with its scanner;
//   - where the target writes its own cache.
//
// What does not: the values of secrets, which count by their ids only, and which agent
// answers for ssh; times and owners of files; where directories lie on this machine;
// names of stages; proxies; worker constraints; names and tags of the image.
//
// What only attestations show is kept apart ([Key.Attested]): the revision of the work
// tree, names of the image, build args that no step uses, the attributes of the
// attestations themselves. It counts where a target asks for attestations with attest,
// --sbom or --provenance. The provenance that images get by default names the
// revision that the image was built from; that stays true of an image that did not change.
//
// # Always built
//
// A key cannot be made where what is built may be another thing tomorrow
// ([Key.Unknown]): an ADD of a URL without a checksum, a git source whose commit no node
// has named, an image without a digest, an operation that cannot be looked into, and
// whatever a foreign frontend (# syntax=) made. A RUN that downloads is not among them:
// as in BuildKit's own cache, an equal command has an equal result. Targets with no-cache
// or no-cache-filter are built ([Key.Anew]), and recorded for builds without.
// --pull asks for the digests of base images, which every build does; equal digests
// are equal lines.
//
// Of what writes more than one image to a registry nothing is reused: type=local, tar,
// oci and docker (--load) outputs, images that stay on a node, a target with several
// outputs or with none, and one that writes its cache to a directory are built.
//
// # Changed although nothing is
//
// A key may change where the image would be the same: a file changes below a path that
// a step copies, although the copy excludes it (COPY --exclude); a base image's index
// gets another digest and the platform's image does not; a step whose result is the
// same is written in another way; dbake, whose frontend makes the graph, is another
// version; nodes support less LLB than those before; a directory lies in a repository
// and the attributes of BUILDX_GIT_LABELS are asked for.
//
// # Records
//
// After a push the key is recorded with the descriptor of the image and the repositories
// that have it: in one file of the user's cache directory, and with --cache-registry in
// one artifact of that repository, under the tag PREFIX.images, so that a machine that
// has never seen the project knows it. The artifact is read once for a build. It holds
// digests, names of targets and repositories, times, what the metadata of a build says of
// where it was made, without the values of args, and base images with their manifests and
// configs; no lines. Writers read it,
// add their own, write it, and look whether another one has written meanwhile; if so
// they do it again. What is lost in spite of that costs a build. The newest [maxRecords]
// are kept; projects that share a repository should differ in the prefix
// (--cache-registry REF:PREFIX).
//
// A key is recorded only if the files are after the build what they were before.
//
// # Who is believed
//
// A record says which image a key stands for, and that cannot be checked without
// building. Who may write to the cache repository can therefore have an older or
// another image of the same registry taken for the one that was asked for, just as they
// can have the nodes take any layer from the cache that lies there. Give the right to
// write there to those only who may push the images. Beyond that nothing is believed: a
// record that is damaged, foreign or too large is none; only names that the definition
// says are ever written; images are looked up by digest in the registry of these names
// and nowhere else, and what is copied is compared with its digest. A target is
// unchanged only if the registry itself says that its tags stand for the digest, or
// that the digest is there to be tagged. When it cannot be asked, all is built.
package imagekey
