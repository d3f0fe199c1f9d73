// Package registry is the client's own access to registries, with the user's docker
// credentials: for work that a node cannot do for the others.
//
// Nodes push and pull by themselves. Left to the client are the tags that exist
// ([Client.Tags], which cache references are worth importing), configs of base
// images ([Client.Config]), and the index of an image whose platforms were built
// by several nodes: each node pushes its part by digest, and [Client.PutIndex]
// joins the parts under the image's names. The joined index is byte for byte what
// a single node would have pushed: images in the order of the target's platforms,
// after them their attestations, in BuildKit's own indentation.
//
// A name is taken as docker takes it: "alpine" is docker.io/library/alpine:latest.
// A registry on localhost or a loopback address is asked over TLS first and then
// over plain HTTP; all others need an entry in [Options] for plain HTTP.
//
// # Waiting
//
// A request on which no byte moves for [Patience].Silence ends, one that writes after six
// times that. Requests that a registry answers with 429 or 5xx, that break off or cannot
// connect, are tried again: with waits that double from half a second to eight, not before
// Retry-After, and until [Patience] ends. [Options].Notify is called of every wait. A
// registry for which patience has ended is asked once from then on, until it answers. Names
// that do not exist and certificates that are not trusted are final.
//
// # Errors
//
// Errors are of type [*Error] and one of [ErrNotFound], [ErrDenied],
// [ErrUnreachable], [ErrBusy] and [ErrTooLarge] where one of these is the cause; a
// cancelled context gives its cause. Texts say what to do and hold no credentials.
//
// A Client is safe for concurrent use. It keeps tokens, and idle connections until
// [Client.Close]; no method leaves work behind.
package registry
