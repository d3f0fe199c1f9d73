package main

import "github.com/dbake/dbake/internal/cost"

// historyFile returns the value of --history with an absolute name of a file.
func (a *app) historyFile(name string) string {
	if name == cost.InMemory {
		return name
	}
	return a.path(name)
}
