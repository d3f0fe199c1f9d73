// Package watchdog notices peers that do not answer.
//
// A [Watch] looks after one connection and ends it when nothing at all is heard for too long.
// [Hurry] is for calls that were interrupted and do not return.
package watchdog
