// Package compiler turns Docker Bake definitions into an [ir.Project]: text in,
// resolved targets out. It reads bake files in HCL and JSON and compose files
// natively, and agrees with "docker buildx bake --print" v0.38.2 on what they
// mean, errors included.
//
// It knows no BuildKit, no clock but the timestamp function, and no network; the
// environment is what [Options] holds, the file system is read below names the
// user gave. The same input gives the same output. Functions of the package may
// be called concurrently; they share nothing.
//
// # Order of evaluation
//
// A file for each pass, in this order:
//
//  1. remote.go, files.go: arguments are split into definition URL, context URL
//     and names; files are found by option, environment or default name, and read.
//  2. parse.go: every file is compose, HCL or JSON, by name or by trial.
//  3. compose.go: all compose files become one project, its services targets.
//  4. evaluate.go: all HCL and JSON files together are laid over them. Everything
//     is evaluated whether it was asked for or not, so a mistake anywhere is an
//     error:
//     - vars.go: variables, each with what it refers to, then their validations;
//     - userfunc.go: functions;
//     - blocks.go: matrices are expanded and instances named, in order of
//     appearance; then targets and groups are evaluated, each attribute
//     (attributes.go) when it is first needed, by a reference such as
//     target.app.tags or by its own block. Blocks of one name merge;
//     - the global attributes that nothing needed.
//  5. context.go: paths become relative to the files that hold them, if asked to.
//  6. matchname.go, select.go: names and patterns become groups and targets.
//  7. override.go: --set, and the options that stand for it, are read.
//  8. inherit.go: each target is its parents in order, then itself, then its
//     overrides; then target.go drops what is said twice. Defaults come last.
//  9. links.go: targets that others read are brought in, and put in order.
//  10. context.go, elements_check.go: contexts are cleaned, and what cannot be
//     built is refused.
//  11. lower.go: what is left is the project. print.go writes it, list.go lists
//     definitions instead, strict.go reports what looks like a mistake.
//
// # Where upstream leaves it to chance
//
// docker buildx walks some Go maps, so some of its output has no order. Here: the
// keys of a matrix vary in alphabetical order, the first one fastest; overrides of
// one target are applied by name, then secret, output, push and load;
// variables, functions, attributes and global attributes are evaluated in order of
// appearance, what the attributes of a block need is resolved in order of their
// names, links in order of the context names; of several mistakes the first in
// that order is the first reported.
//
// # What upstream gets wrong
//
// Definitions in the world rely on some of it, so it is kept, and documented where
// it happens: references see a block as written and not as merged, unknown
// attributes say nothing, inherited cache imports share their storage
// ([definition]).
//
// # Extensions
//
// depends_on orders targets without reading one from the other; it selects
// nothing by itself. [Options.Strict], [Options.Exclude], [Options.WithDeps] and
// [Options.Profiles] are off unless asked for.
package compiler
