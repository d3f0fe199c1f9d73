// Package view prints everything that people see: errors, progress, plans and summaries.
// The engine emits events and values; only this package prints them.
//
// Output is the same for the same input: times and widths are parameters, nothing
// here asks the terminal or the clock but [Progress].
package view
