package engine

import "context"

// lookAround notes how many others build on the nodes that are there, and says so. It is
// done right before the plan is made: others come and go while Dockerfiles are compiled.
func (f *facts) lookAround(ctx context.Context, note func(text string)) {
	if f.pool == nil {
		return
	}
	ready := len(f.pool.Nodes())
	for i, tenants := range f.pool.Tenants(ctx)[:ready] {
		if f.nodes[i].Tenants = tenants; tenants > 0 {
			note(f.nodes[i].Sharing())
		}
	}
}
