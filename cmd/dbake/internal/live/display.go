package live

import (
	"errors"
	"io"
	"strconv"
	"sync"
	"time"

	tea "charm.land/bubbletea/v2"

	"github.com/dbake/dbake/cmd/dbake/internal/scene"
	"github.com/dbake/dbake/internal/printable"
	"github.com/dbake/dbake/runtime"
)

// Terminal is what a display writes to.
type Terminal interface {
	io.ReadWriteCloser
	Fd() uintptr
}

// Options say where a run is shown.
type Options struct {
	Out Terminal
	// In is where keys come from, nil for nowhere.
	In io.Reader
	// Env is the environment that says what the terminal can do.
	Env map[string]string
	// Interrupt is called when a key asks for the end of the build. It must not wait.
	Interrupt func()
	// Patience is how long to wait before the run is shown: a shorter run needs no screen.
	Patience time.Duration
}

// frames is the time between two frames.
const frames = 100 * time.Millisecond

// Display shows a run on a terminal. Its methods may be called from any goroutine.
type Display struct {
	options Options
	start   time.Time
	stop    chan struct{} // closed by Stop
	once    sync.Once
	done    chan struct{} // closed when the terminal is as it was before

	mu    sync.Mutex // guards what follows
	model *Model
	err   error
}

// Start begins to show a run. The display must be stopped.
func Start(run scene.Outlook, o Options) *Display {
	d := &Display{options: o, start: time.Now(), stop: make(chan struct{}), done: make(chan struct{}), model: &Model{Scene: scene.New(run)}}
	go d.run()
	return d
}

// run owns the terminal.
func (d *Display) run() {
	defer close(d.done)
	wait := time.NewTimer(d.options.Patience)
	defer wait.Stop()
	select {
	case <-d.stop:
		return
	case <-wait.C:
	}
	var env []string
	for k, v := range d.options.Env {
		env = append(env, k+"="+v)
	}
	p := tea.NewProgram(screen{d}, tea.WithOutput(d.options.Out), tea.WithInput(d.options.In), tea.WithEnvironment(env),
		tea.WithoutSignalHandler(), tea.WithFPS(30))
	quitting := make(chan struct{})
	ended := make(chan struct{})
	go func() {
		defer close(quitting)
		select {
		case <-d.stop:
			p.Quit() // returns when the program has ended in another way
		case <-ended:
		}
	}()
	_, err := p.Run()
	close(ended)
	<-quitting
	d.mu.Lock()
	defer d.mu.Unlock()
	d.err = err
}

// Apply takes an event in. It does not wait for the terminal.
func (d *Display) Apply(e runtime.Event) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.model.Scene.Apply(time.Since(d.start), e)
}

// Say shows a line among what happens.
func (d *Display) Say(kind scene.Kind, text string) {
	d.mu.Lock()
	defer d.mu.Unlock()
	d.model.Scene.Say(time.Since(d.start), kind, text)
}

// Stop ends the display and gives the terminal back. It returns when that is done, and
// why the display ended before, if it did.
func (d *Display) Stop() error {
	d.once.Do(func() { close(d.stop) })
	<-d.done
	d.mu.Lock()
	defer d.mu.Unlock()
	if errors.Is(d.err, tea.ErrProgramKilled) && !errors.Is(d.err, tea.ErrProgramPanic) {
		return nil // the terminal is gone: nobody could read an error
	}
	return d.err
}

// Scene returns what is known of the run. It is the caller's once the display is
// stopped and no more events come.
func (d *Display) Scene() *scene.Scene { return d.model.Scene }

// screen adapts the display to the library that draws it.
type screen struct{ *Display }

// tick reports that it is time for a frame.
type tick struct{}

func (s screen) Init() tea.Cmd { return next() }

func next() tea.Cmd { return tea.Tick(frames, func(time.Time) tea.Msg { return tick{} }) }

// Update implements tea.Model.
func (s screen) Update(msg tea.Msg) (tea.Model, tea.Cmd) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.model.Now = time.Since(s.start)
	switch msg := msg.(type) {
	case tick:
		return s, next()
	case tea.WindowSizeMsg:
		s.model.Width, s.model.Height = columns(msg.Width, s.options.Env["COLUMNS"]), msg.Height
	case tea.PasteMsg:
		// Pasted text must not act as keys: it may hold any.
		s.model.Paste(printable.Line(msg.Content))
	case tea.KeyPressMsg:
		switch s.model.Key(msg.String(), msg.Text) {
		case Interrupt:
			s.options.Interrupt()
		case Suspend:
			return s, s.suspend()
		}
	}
	return s, nil
}

// View implements tea.Model.
func (s screen) View() tea.View {
	s.mu.Lock()
	defer s.mu.Unlock()
	v := tea.NewView(s.model.Frame())
	v.AltScreen = true
	return v
}

// narrowest is the least width that COLUMNS may ask for.
const narrowest = 20

// columns is the width to use on a terminal of a width: less, if COLUMNS says so.
func columns(width int, asked string) int {
	if n, err := strconv.Atoi(asked); err == nil && n >= narrowest && n < width {
		return n
	}
	return width
}
