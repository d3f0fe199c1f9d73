// Package frontend compiles every unit of a project to LLB.
//
// It runs BuildKit's own Dockerfile frontend in this process, against a gateway
// client that answers from the disk and from an image metadata resolver and that
// records what it is asked to solve instead of solving it. Everything that the
// Dockerfile frontend supports is therefore supported, and no daemon is needed.
// What cannot be known here (the Dockerfile of a git context, an HTTP context
// that has to be looked at, a foreign "# syntax=" image) is asked of a node
// through [Gateway]; without one it is an error that says so.
//
// # What is promised about a definition
//
//   - It is a function of the project, the files read, the image metadata and the
//     options: the same input gives the same bytes, on any machine. The random
//     and per-session attributes that BuildKit puts on local sources are gone.
//   - A local source is named for its directory relative to the project, so one
//     directory has one name in all units ([Unit.Locals] says which). The shared
//     key hints are left as the Dockerfile frontend wrote them.
//   - Every image is pinned by digest. The one exception is an image that
//     is not known because the resolver works offline; it is listed in
//     [Unit.Assumed].
//   - A git source names the commit that its reference stands for: a node is asked
//     once per run and reference, so that no two nodes build two commits, nor one
//     node in two solves. It is added to the source, whose URL and reference stay
//     as they were written, in the provenance too. A branch may move meanwhile: its
//     commit is fetched by name; where the directory .git is kept, or a node cannot
//     do that, the build fails instead, as it does for a tag that moves. Nodes too
//     old to tell a commit leave the source as it is. What a foreign frontend reads while it compiles is not pinned, only
//     what it returns. Without a gateway, sources stay as they are; so do files
//     fetched over HTTP without a checksum, as a node would have to fetch them to
//     tell it.
//   - A secret or SSH id names one source: where two targets of the project use
//     one id for different sources, the ids in the definitions differ
//     ([Unit.Secrets], [Unit.SSH]). What a step gets is what the target declares
//     whose Dockerfile wrote it, whoever links that target; a step whose target
//     declares nothing gets nothing, although all are built in one session.
//   - A linked target is part of the definition of its user, op for op as in its
//     own definition.
//
// # Errors
//
// A problem in the user's files is an [ir.SourceError] that points at the line of
// the Dockerfile or at the attribute of the bake file, wrapped in a [UnitError].
// Compile reports all of them and returns the units that did compile. Units that
// were left out because a unit they link to failed are not errors of their own.
//
// # Concurrency
//
// The functions of this package are safe for concurrent use as long as the
// resolver and the gateway are. No goroutine outlives the call that started it.
package frontend
