// Package layout reads and completes OCI image layouts in directories of this machine.
//
// Nodes read contexts, caches and images from layouts through a [Store], which changes
// nothing. They also write images into layouts; [Enter] then adds an image to the index, and
// [Locks] keep the writers of one directory apart.
package layout
