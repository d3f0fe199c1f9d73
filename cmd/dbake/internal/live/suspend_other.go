//go:build !unix

package live

// Run implements [tea.ExecCommand]: no process is stopped here.
func (suspension) Run() error { return nil }
