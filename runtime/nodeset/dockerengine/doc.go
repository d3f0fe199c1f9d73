// Package dockerengine talks to a Docker engine: which one is meant, what it is, the
// BuildKit inside it, its images and the containers that run BuildKit beside it.
//
// It speaks the engine's HTTP API and needs no docker program, except that an engine
// at ssh:// is reached by ssh. An engine is found as the docker command finds it:
// $DOCKER_HOST, else the docker context of $DOCKER_CONTEXT or of the configuration,
// else the socket of this machine.
//
// Everything that waits ends with its context. An [Engine] is safe for concurrent use.
package dockerengine
