// Package cachestore keeps a repository of build caches in order: it lists what the
// repository holds, removes what is no longer wanted, and merges caches.
//
// # Removal in two phases
//
// A build that runs may have read the tag of a cache and fetch its layers minutes later. So
// [Prune] first marks: the tag of an unwanted cache is replaced by a mark,
// PREFIX.pruned-TIME-DIGEST, that keeps the content and that no build reads. The second
// phase deletes caches that were marked longer ago than the grace period, unless a build
// has written the same cache again since. Both phases may be done by one call when the
// grace period is zero. Registries that delete no tags keep the tag until the second phase.
//
// Registries free the disk space in their own garbage collection.
package cachestore
