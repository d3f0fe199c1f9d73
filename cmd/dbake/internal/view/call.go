package view

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"

	"github.com/dbake/dbake/compiler"
	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
)

// Calls prints the answers of the frontend for people, each under the name and the
// description of its target. It returns the status that the command should exit
// with: 1 when an answer is an error, else the first that an answer gives.
func Calls(to io.Writer, answers []*frontend.Called, ignoreStatus bool) (status int, err error) {
	w := &bytes.Buffer{}
	for i, c := range answers {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintln(w, c.Target.Name)
		if c.Target.Description != "" {
			fmt.Fprintln(w, c.Target.Description)
		}
		fmt.Fprintln(w)
		failure := c.Print(w)
		if failure != nil {
			fmt.Fprintf(w, "error: %v\n", failure)
		}
		status = exitStatus(status, c, failure, ignoreStatus)
	}
	_, err = to.Write(w.Bytes())
	return status, err
}

// exitStatus is the status after one more answer.
func exitStatus(status int, c *frontend.Called, err error, ignore bool) int {
	switch {
	case err != nil:
		return 1
	case status == 0 && !ignore:
		return c.StatusCode
	}
	return status
}

// CallsJSON prints the resolved definition with the answers beside the targets
// they are about. It returns the status as [Calls] does.
func CallsJSON(w io.Writer, p *ir.Project, answers []*frontend.Called, ignoreStatus bool) (status int, err error) {
	var definition bytes.Buffer
	if err := compiler.WriteJSON(&definition, p); err != nil {
		return 0, err
	}
	var resolved struct {
		Group  json.RawMessage            `json:"group"`
		Target map[string]json.RawMessage `json:"target"`
	}
	if err := json.Unmarshal(definition.Bytes(), &resolved); err != nil {
		return 0, fmt.Errorf("print answers: %w", err)
	}
	out := struct {
		Group  json.RawMessage                       `json:"group,omitempty"`
		Target map[string]map[string]json.RawMessage `json:"target"`
	}{Group: resolved.Group, Target: map[string]map[string]json.RawMessage{}}
	for name, def := range resolved.Target {
		out.Target[name] = map[string]json.RawMessage{"build": def}
	}
	for _, c := range answers {
		// What an answer says besides its JSON is known only once it is printed.
		printErr := c.Print(io.Discard)
		status = exitStatus(status, c, printErr, ignoreStatus)
		answer, err := callJSON(c, printErr)
		if err != nil {
			return 0, err
		}
		method := c.Method
		if method == "lint" {
			method = "check"
		}
		if out.Target[c.Target.Name] == nil {
			out.Target[c.Target.Name] = map[string]json.RawMessage{}
		}
		out.Target[c.Target.Name][method] = answer
	}
	data, err := json.MarshalIndent(out, "", "  ")
	if err != nil {
		return 0, fmt.Errorf("print answers: %w", err)
	}
	_, err = w.Write(append(data, '\n'))
	return status, err
}

// callJSON returns the fields of an answer, or the answer under its method when it
// has no fields, and the error it ends with.
func callJSON(c *frontend.Called, failure error) (json.RawMessage, error) {
	fields := map[string]json.RawMessage{}
	if err := json.Unmarshal(c.JSON(), &fields); err != nil {
		fields = map[string]json.RawMessage{}
		if json.Valid(c.JSON()) {
			fields[c.Method] = c.JSON()
		}
	}
	if _, ok := fields["error"]; failure != nil && !ok {
		text, err := json.Marshal(failure.Error())
		if err != nil {
			return nil, fmt.Errorf("print answers: %w", err)
		}
		fields["error"] = text
	}
	return json.Marshal(fields)
}
