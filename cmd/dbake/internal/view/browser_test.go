package view

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"github.com/stretchr/testify/require"
)

// browser is a Chromium without a window, which is driven through a pipe.
type browser struct {
	t       *testing.T
	to      *os.File
	from    *bufio.Reader
	last    int
	session string
	faults  []string // errors of scripts, and requests
}

// browserNames are the programs that can be driven.
var browserNames = []string{"chromium", "chromium-browser", "google-chrome", "chrome"}

// newBrowser starts a browser that reaches no network, or skips the test.
func newBrowser(t *testing.T) *browser {
	path := ""
	for _, name := range browserNames {
		if found, err := exec.LookPath(name); err == nil {
			path = found
			break
		}
	}
	if path == "" {
		t.Skipf("the pages are not opened: none of %q is on PATH", browserNames)
	}
	profile, err := os.MkdirTemp("", "dbake-browser")
	require.NoError(t, err)
	// Its other processes may still write when the first has ended.
	t.Cleanup(func() {
		require.Eventually(t, func() bool { return os.RemoveAll(profile) == nil }, 10*time.Second, 50*time.Millisecond)
	})
	ctx, stop := context.WithTimeout(t.Context(), 5*time.Minute)
	t.Cleanup(stop)
	inRead, inWrite, err := os.Pipe()
	require.NoError(t, err)
	outRead, outWrite, err := os.Pipe()
	require.NoError(t, err)
	cmd := exec.CommandContext(ctx, path, "--headless", "--no-sandbox", "--disable-gpu", "--disable-dev-shm-usage", "--no-first-run",
		"--user-data-dir="+profile, "--remote-debugging-pipe", "--window-size=1200,900", "about:blank")
	cmd.ExtraFiles = []*os.File{inRead, outWrite}
	cmd.WaitDelay = 5 * time.Second
	require.NoError(t, cmd.Start())
	b := &browser{t: t, to: inWrite, from: bufio.NewReader(outRead)}
	require.NoError(t, errors.Join(inRead.Close(), outWrite.Close()))
	t.Cleanup(func() {
		_ = b.to.Close() // the end of the pipe is the end of the browser
		_, _ = io.Copy(io.Discard, outRead)
		_ = cmd.Wait()
		_ = outRead.Close()
	})
	target := struct{ TargetID string }{}
	b.call("Target.createTarget", map[string]any{"url": "about:blank"}, &target)
	attached := struct{ SessionID string }{}
	b.call("Target.attachToTarget", map[string]any{"targetId": target.TargetID, "flatten": true}, &attached)
	b.session = attached.SessionID
	for _, domain := range []string{"Page", "Runtime", "Log", "Network"} {
		b.call(domain+".enable", nil, nil)
	}
	b.call("Network.emulateNetworkConditions", map[string]any{"offline": true, "latency": 0, "downloadThroughput": -1, "uploadThroughput": -1}, nil)
	return b
}

// message is what goes over the pipe.
type message struct {
	ID        int             `json:"id,omitempty"`
	Method    string          `json:"method,omitempty"`
	Params    json.RawMessage `json:"params,omitempty"`
	SessionID string          `json:"sessionId,omitempty"`
	Result    json.RawMessage `json:"result,omitempty"`
	Error     json.RawMessage `json:"error,omitempty"`
}

// call calls a method and waits for its answer.
func (b *browser) call(method string, params map[string]any, result any) {
	b.t.Helper()
	b.last++
	if params == nil {
		params = map[string]any{}
	}
	encoded, err := json.Marshal(params)
	require.NoError(b.t, err)
	data, err := json.Marshal(message{ID: b.last, Method: method, Params: encoded, SessionID: b.session})
	require.NoError(b.t, err)
	_, err = b.to.Write(append(data, 0))
	require.NoError(b.t, err)
	for {
		m := b.read()
		if m.ID != b.last {
			continue
		}
		require.Empty(b.t, string(m.Error), method)
		if result != nil {
			require.NoError(b.t, json.Unmarshal(m.Result, result))
		}
		return
	}
}

// read reads a message and notes what should not be.
func (b *browser) read() message {
	b.t.Helper()
	data, err := b.from.ReadBytes(0)
	require.NoError(b.t, err)
	var m message
	require.NoError(b.t, json.Unmarshal(bytes.TrimSuffix(data, []byte{0}), &m))
	switch m.Method {
	case "Runtime.exceptionThrown", "Log.entryAdded", "Runtime.consoleAPICalled", "Network.loadingFailed":
		b.faults = append(b.faults, m.Method+" "+string(m.Params))
	}
	return m
}

// open opens a page and waits until it is there.
func (b *browser) open(page []byte) {
	b.t.Helper()
	path := filepath.Join(b.t.TempDir(), "page.html")
	require.NoError(b.t, os.WriteFile(path, page, 0o644))
	b.call("Page.navigate", map[string]any{"url": "file://" + path}, nil)
	for b.read().Method != "Page.loadEventFired" {
	}
}

// eval returns what an expression is.
func (b *browser) eval(expression string) any {
	b.t.Helper()
	var got struct {
		Result           struct{ Value any }
		ExceptionDetails json.RawMessage
	}
	b.call("Runtime.evaluate", map[string]any{"expression": expression, "returnByValue": true, "awaitPromise": true}, &got)
	require.Empty(b.t, string(got.ExceptionDetails), expression)
	return got.Result.Value
}

// press presses a key.
func (b *browser) press(key string) {
	b.t.Helper()
	text := ""
	if len(key) == 1 {
		text = key
	}
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyDown", "key": key, "text": text}, nil)
	b.call("Input.dispatchKeyEvent", map[string]any{"type": "keyUp", "key": key}, nil)
}

// shot leaves a picture of the page in $DBAKE_SHOTS, for people to look at.
func (b *browser) shot(name string) {
	b.t.Helper()
	dir := os.Getenv("DBAKE_SHOTS")
	if dir == "" {
		return
	}
	var picture struct{ Data []byte }
	b.call("Page.captureScreenshot", map[string]any{"captureBeyondViewport": true}, &picture)
	require.NoError(b.t, os.WriteFile(filepath.Join(dir, name+".png"), picture.Data, 0o644))
}

// The pages open without an error and without a request, light and dark, and their keys,
// wheel, search and tips do what they say.
func TestPagesInBrowser(t *testing.T) {
	pages := map[string][]byte{}
	for name, write := range map[string]func(io.Writer) error{
		"plan":    func(w io.Writer) error { return HTML(w, fixedPlan()) },
		"trace":   func(w io.Writer) error { return RunPage(w, fixedRun(), nil) },
		"compare": func(w io.Writer) error { return RunPage(w, fixedRun(), earlierRun()) },
		"large":   func(w io.Writer) error { return RunPage(w, largeRun(), nil) },
	} {
		var page bytes.Buffer
		require.NoError(t, write(&page))
		pages[name] = page.Bytes()
	}
	b := newBrowser(t)
	for _, name := range []string{"plan", "trace", "compare", "large"} {
		for _, scheme := range []string{"light", "dark"} {
			b.call("Emulation.setEmulatedMedia", map[string]any{"features": []map[string]string{{"name": "prefers-color-scheme", "value": scheme}, {"name": "prefers-reduced-motion", "value": "reduce"}}}, nil)
			b.open(pages[name])
			back := fmt.Sprint(b.eval(`getComputedStyle(document.body).backgroundColor`))
			require.Equal(t, map[string]string{"light": "rgb(247, 247, 245)", "dark": "rgb(21, 23, 26)"}[scheme], back)
			require.Equal(t, "0s", b.eval(`getComputedStyle(document.querySelector(".bar")).transitionDuration`))
			require.Equal(t, true, b.eval(`document.documentElement.scrollWidth <= innerWidth`), "%s: the page does not scroll sideways", name)
			b.shot(name + "-" + scheme)
		}
		testPageKeys(t, b)
		require.Empty(t, b.faults, name)
	}
	testPageSize(t, b)
}

// testPageKeys uses a page that is open.
func testPageKeys(t *testing.T, b *browser) {
	t.Helper()
	width := `plots[0].clientWidth`
	fits := b.eval(width).(float64)
	b.press("+")
	b.press("+")
	require.Greater(t, b.eval(width).(float64), 2*fits)
	b.press("-")
	require.Less(t, b.eval(width).(float64), 2*fits)
	b.press("0")
	require.Equal(t, fits, b.eval(width))

	// What is under the pointer stays there.
	b.eval(`plots[0].scrollIntoView({block: "center"})`)
	at := func() float64 {
		return b.eval(`(() => { const r = plots[0].getBoundingClientRect(); return (700 - r.left) / r.width })()`).(float64)
	}
	before := at()
	y := b.eval(`(() => { const r = plots[0].getBoundingClientRect(); return r.top + 10 })()`)
	b.call("Input.dispatchMouseEvent", map[string]any{"type": "mouseWheel", "x": 700, "y": y, "deltaX": 0, "deltaY": -240, "modifiers": 2}, nil)
	require.Greater(t, b.eval(`new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(() => done(zoom))))`).(float64), 1.5)
	require.InDelta(t, before, at(), 0.01)
	b.press("0")

	// Arrows go from bar to bar, with the tip beside each.
	b.eval(`current.focus()`)
	first := b.eval(`document.activeElement.dataset.title`)
	require.Equal(t, "block", b.eval(`tip.style.display`))
	require.Equal(t, first, b.eval(`tip.firstChild.textContent`))
	b.press("ArrowRight")
	require.Equal(t, true, b.eval(`document.activeElement === current && current.matches(".bar")`))
	b.press("ArrowDown")
	b.press("ArrowUp")
	b.press("Home")
	require.Equal(t, first, b.eval(`document.activeElement.dataset.title`))
	require.Equal(t, 1., b.eval(`document.querySelectorAll(".bar[tabindex='0']").length`))
	require.Equal(t, true, b.eval(`bars.every((bar) => bar.getAttribute("aria-label"))`))
	b.press("Escape")
	require.Equal(t, "none", b.eval(`tip.style.display`))

	// A search fades what does not match.
	b.press("/")
	require.Equal(t, "find", b.eval(`document.activeElement.id`))
	word := b.eval(`bars[bars.length - 1].dataset.title`)
	b.call("Input.insertText", map[string]any{"text": word}, nil)
	require.Equal(t, false, b.eval(`bars[bars.length - 1].classList.contains("faded")`))
	require.Equal(t, true, b.eval(`bars.some((bar) => bar.classList.contains("faded"))`))
	require.Contains(t, b.eval(`document.getElementById("found").textContent`), " of ")
	b.press("Escape")
	require.Equal(t, false, b.eval(`bars.some((bar) => bar.classList.contains("faded"))`))
}

// testPageSize looks at the page of 500 targets, which is open: only what is in view has
// ticks, however near one is.
func testPageSize(t *testing.T, b *browser) {
	t.Helper()
	require.Greater(t, b.eval(`bars.length`), 3000.)
	// A bar that is as wide as its edges would be nothing but them. The times stand above the
	// chart, too.
	slim := `bars.filter((bar) => bar.matches(".slim"))`
	require.Greater(t, b.eval(slim+`.length`), 0.)
	require.Equal(t, true, b.eval(slim+`.every((bar) => getComputedStyle(bar).boxShadow === "none")`))
	require.Equal(t, 2., b.eval(`charts.querySelectorAll(".axis").length`))
	b.eval(`setZoom(400)`)
	require.Equal(t, 400., b.eval(`zoom`))
	require.Equal(t, 0., b.eval(slim+`.length`))
	require.Less(t, b.eval(`document.querySelectorAll(".grid").length`), 6*60.)
	require.Empty(t, b.faults)
}
