// Package report describes a plan to people and to programs: the work of each node over
// time, the steps that targets share, the critical path, and the reasons.
//
// A [Report] is made from a build and its plan and changes neither: a run reads [plan.Plan]
// alone.
//
// # The JSON form
//
// [File] is the form of a plan that is kept, with every field documented there;
// "format": "dbake-plan" distinguishes it from other JSON. Fields may be added, none
// changes its meaning within a version. A plan that is built later ([File.Check],
// [File.SavedPlan]) names the targets that were asked for, and is refused when the
// definition of one of them has changed, when one was added or is gone, or when a
// node is missing that has something to build. Dockerfiles and files may have
// changed: a plan says where targets are built, in which order and together with
// which, not what they are. All times, costs and reasons in it are for people, and
// are found anew.
package report
