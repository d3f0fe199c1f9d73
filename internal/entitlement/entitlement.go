// Package entitlement compares what a build does beyond running sandboxed steps on the
// files of the working directory with what was granted.
//
// A [Guard] finds what a project asks for and the user did not grant ([Guard.Missing]),
// and puts it into words ([Guard.Request]); whoever asks the user does so elsewhere. It
// goes by what the compiler has decided (compiler/ir), never by texts. [Needs] compares
// what steps turn out to need with what their targets declare.
package entitlement

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/tonistiigi/go-csvvalue"

	"github.com/dbake/dbake/compiler/ir"
	"github.com/dbake/dbake/frontend"
)

// Entitlements that steps can need. That of a device can have a value.
const (
	NetworkHost      = "network.host"
	SecurityInsecure = "security.insecure"
	Device           = "device"
)

// DeviceName returns the name in the value of a "device" key, "" for all devices.
func DeviceName(value string) (string, error) {
	if value == "" {
		return "", nil
	}
	fields, err := csvvalue.Fields(value, nil)
	if err != nil {
		return "", fmt.Errorf("failed to parse device entitlement %q: %w", value, err)
	}
	return fields[0], nil
}

// foreignDevices returns the devices that steps of a unit need and that its target
// does not declare, as entitlements: nodes get the declarations of all targets
// at once. Only full names can be told apart here; what a class means,
// or a kind of device without a name, is known to the node alone.
func foreignDevices(u *frontend.Unit) []string {
	var list []string
	for _, device := range u.Devices {
		if !slices.ContainsFunc(u.Target.Entitlements, func(e string) bool { return mayMean(e, device) }) {
			list = append(list, Device+"="+device)
		}
	}
	return list
}

// mayMean reports whether an entitlement may be for the device of that name.
func mayMean(entitlement, device string) bool {
	key, value, _ := strings.Cut(entitlement, "=")
	if key != Device {
		return false
	}
	name, err := DeviceName(value)
	if err != nil || name == "" || strings.Contains(value, ",") { // an alias may stand for any name
		return true
	}
	kind, id, _ := strings.Cut(name, "=")
	wantKind, wantID, _ := strings.Cut(device, "=")
	if !strings.Contains(kind, "/") || !strings.Contains(wantKind, "/") {
		return true
	}
	open := func(id string) bool { return id == "" || id == "*" }
	return kind == wantKind && (id == wantID || open(id) || open(wantID))
}

// Needs returns the entitlements that the nodes are to grant: those that the
// steps of a unit need and its target declares. The project is authorized, so
// what is declared is granted. What a step needs beyond that is an error.
func Needs(units []*frontend.Unit) ([]string, error) {
	var list []string
	var errs []error
	seen := map[string]bool{}
	for _, u := range units {
		var lacks []string
		for _, need := range u.Entitlements {
			before := len(list)
			for _, e := range u.Target.Entitlements {
				if key, _, _ := strings.Cut(e, "="); key == need {
					list = append(list, e)
				}
			}
			if len(list) == before {
				lacks = append(lacks, need)
			} else if need == Device {
				lacks = append(lacks, foreignDevices(u)...)
			}
		}
		if len(lacks) > 0 && !seen[u.Target.Name] {
			seen[u.Target.Name] = true
			errs = append(errs, &ir.SourceError{
				Range:   u.Target.Origin("entitlements"),
				Summary: fmt.Sprintf("target %s has steps that need %s, which it does not declare", u.Target.Name, strings.Join(lacks, " and ")),
				Detail:  fmt.Sprintf("add entitlements = [\"%s\"] to it and pass --allow %s", strings.Join(lacks, `", "`), strings.Join(lacks, " --allow ")),
			})
		}
	}
	slices.Sort(list)
	return slices.Compact(list), errors.Join(errs...)
}
