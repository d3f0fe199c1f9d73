package live

import (
	"io"

	tea "charm.land/bubbletea/v2"
)

// suspension stops this process as the terminal does for Ctrl-Z when no display has the
// keys, while the terminal is as it was before. It needs none of the streams.
type suspension struct{ stop <-chan struct{} }

func (suspension) SetStdin(io.Reader)  {}
func (suspension) SetStdout(io.Writer) {}
func (suspension) SetStderr(io.Writer) {}

// suspend returns the command that suspends the process. When it goes on, all is drawn anew.
func (d *Display) suspend() tea.Cmd {
	return tea.Exec(suspension{d.stop}, func(error) tea.Msg { return tea.ClearScreen() })
}
