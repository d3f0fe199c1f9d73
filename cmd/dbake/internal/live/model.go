package live

import (
	"slices"
	"strings"
	"time"

	"github.com/charmbracelet/x/ansi"

	"github.com/dbake/dbake/cmd/dbake/internal/scene"
)

// Model is what is on the screen. The zero value but for Scene is the dashboard.
type Model struct {
	// Scene is what is shown, at the time Now since the start of the run.
	Scene *scene.Scene
	Now   time.Duration
	// Width and Height are those of the screen, in columns and lines.
	Width, Height int

	page   page
	before page // the one that the help is about

	// selected is the target under the cursor; moved is set once the user put it there,
	// otherwise it follows the build. top is the first target that is shown.
	selected string
	moved    bool
	top      int

	filter filter // of the targets
	log    logPage
	// failing is set when the log of the next target that fails is to be opened.
	failing bool
	seen    int // failed steps that were there when failing was set
}

// page is what fills the screen.
type page int

const (
	dashboard page = iota
	logs
	help
	question // whether to stop the build
)

// filter is a text that lines have to contain.
type filter struct {
	text   string
	typing bool
}

// matches reports whether s contains the text, in whatever case.
func (f filter) matches(s string) bool {
	return f.text == "" || strings.Contains(strings.ToLower(s), strings.ToLower(f.text))
}

// key takes a key while the filter is typed and reports whether it was one for it.
func (f *filter) key(key, text string) bool {
	if !f.typing {
		return false
	}
	switch key {
	case "enter", "down", "up":
		f.typing = false
	case "esc":
		*f = filter{}
	case "backspace":
		if r := []rune(f.text); len(r) > 0 {
			f.text = string(r[:len(r)-1])
		} else {
			f.typing = false
		}
	case "ctrl+u":
		f.text = ""
	default:
		if text == "" {
			return false
		}
		f.text += text
	}
	return true
}

// Action is a request of a key that concerns more than the screen.
type Action int

// The actions.
const (
	Nothing Action = iota
	Interrupt
	Suspend
)

// Key takes a key: its name, as "a", "G", "up" or "ctrl+c", and the text that it types.
func (m *Model) Key(key, text string) Action {
	switch key {
	case "ctrl+c":
		return Interrupt
	case "ctrl+z":
		return Suspend
	}
	switch m.page {
	case help:
		m.page = m.before
	case question:
		m.page = dashboard
		if key == "y" || key == "Y" || key == "enter" {
			return Interrupt
		}
	case logs:
		m.logKey(key, text)
	default:
		m.dashboardKey(key, text)
	}
	return Nothing
}

// Paste adds text to the filter that is being typed; elsewhere it does nothing.
func (m *Model) Paste(text string) {
	for _, f := range []*filter{&m.filter, &m.log.filter} {
		if f.typing {
			f.text += text
		}
	}
}

func (m *Model) dashboardKey(key, text string) {
	if m.filter.key(key, text) {
		m.moved = m.moved && m.filter.matches(m.selected)
		return
	}
	switch key {
	case "down", "j":
		m.move(1)
	case "up", "k":
		m.move(-1)
	case "pgdown", "space", "ctrl+d":
		m.move(m.rows() - 1)
	case "pgup", "b", "ctrl+u":
		m.move(1 - m.rows())
	case "g", "home":
		m.move(-len(m.Scene.Targets))
	case "G", "end":
		m.move(len(m.Scene.Targets))
	case "enter", "right", "l":
		if m.follow(); m.selected != "" {
			m.open(m.selected)
		}
	case "f":
		m.findFailing()
	case "/":
		m.filter.typing = true
	case "?":
		m.before, m.page = m.page, help
	case "esc":
		switch {
		case m.filter.text != "":
			m.filter = filter{}
		case m.failing:
			m.failing = false
		default:
			m.moved = false
		}
	case "q":
		m.page = question
	}
}

// list returns the targets that match the filter.
func (m *Model) list() []*scene.Target {
	if m.filter.text == "" {
		return m.Scene.Targets
	}
	var list []*scene.Target
	for _, t := range m.Scene.Targets {
		if m.filter.matches(t.Name) {
			list = append(list, t)
		}
	}
	return list
}

// move moves the cursor down by lines.
func (m *Model) move(by int) {
	list := m.list()
	if len(list) == 0 {
		return
	}
	m.follow()
	at := slices.IndexFunc(list, func(t *scene.Target) bool { return t.Name == m.selected })
	m.selected = list[min(max(0, at+by), len(list)-1)].Name
	m.moved = true
}

// follow puts the cursor on the first target that is being built, unless the user has
// put it somewhere, and scrolls to it.
func (m *Model) follow() {
	list := m.list()
	at := slices.IndexFunc(list, func(t *scene.Target) bool { return t.Name == m.selected })
	if !m.moved || at < 0 {
		at = slices.IndexFunc(list, func(t *scene.Target) bool { return t.State == scene.Running || t.State == scene.Writing })
		if at < 0 {
			at = slices.IndexFunc(list, func(t *scene.Target) bool { return t.State < scene.Done })
		}
		if at < 0 {
			at = len(list) - 1
		}
		m.selected = ""
		if at >= 0 {
			m.selected = list[at].Name
		}
	}
	rows := max(1, m.rows())
	if m.moved {
		m.top = min(max(m.top, at-rows+1), max(0, at))
	} else if at < m.top || at > m.top+rows/2 {
		m.top = at - 1 // one that is done stays in sight
	}
	m.top = max(0, min(m.top, len(list)-rows))
}

// findFailing opens the log of the target that failed first, or of the next one if such a
// log is open, or waits for one to fail.
func (m *Model) findFailing() {
	failed := m.failedTargets()
	if len(failed) == 0 {
		m.failing, m.seen = !m.failing, len(m.Scene.Failed)
		return
	}
	next := failed[0]
	if m.page == logs {
		if i := slices.Index(failed, m.log.target); i >= 0 {
			next = failed[(i+1)%len(failed)]
		}
	}
	m.open(next)
}

// failedTargets are the targets with a failed step, in order of time.
func (m *Model) failedTargets() []string {
	var names []string
	for _, st := range m.Scene.Failed {
		for _, name := range st.Targets {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	return names
}

// watch opens the log of what fails, if that was asked for.
func (m *Model) watch() {
	if !m.failing || len(m.Scene.Failed) == m.seen {
		return
	}
	st := m.Scene.Failed[m.seen]
	m.seen = len(m.Scene.Failed)
	if len(st.Targets) > 0 {
		m.failing = false
		m.open(st.Targets[0])
	}
}

// drawing draws the scene as it is.
func (m *Model) drawing() drawing { return drawing{m.Scene, m.Now} }

// Frame is the screen: Height lines of Width columns.
func (m *Model) Frame() string {
	if m.Width <= 0 || m.Height <= 0 {
		return ""
	}
	m.watch()
	var lines []string
	switch m.page {
	case help:
		lines = m.helpPage()
	case logs:
		lines = m.logPage()
	default:
		lines = m.dashboard()
	}
	for len(lines) < m.Height {
		lines = append(lines, fit("", m.Width))
	}
	lines = lines[:m.Height]
	for i, line := range lines {
		if ansi.StringWidth(line) != m.Width { // on very narrow screens
			lines[i] = fit(line, m.Width)
		}
	}
	return strings.Join(lines, "\n")
}
