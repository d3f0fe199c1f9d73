package local

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
)

// programs are the executables that a daemon needs.
type programs struct {
	buildkitd string
	runc      string
}

// Possible returns an error when this machine cannot run local nodes. buildkitd is the
// program for them; "" is the default.
func Possible(buildkitd string) error {
	_, err := findPrograms(buildkitd)
	return err
}

// findPrograms finds the programs that a cluster needs, and checks this machine.
func findPrograms(buildkitd string) (programs, error) {
	if runtime.GOOS != "linux" {
		return programs{}, fmt.Errorf("local nodes need Linux, this is %s: give the nodes of a cluster elsewhere with --nodes tcp://HOST:PORT", runtime.GOOS)
	}
	if os.Geteuid() != 0 {
		return programs{}, errors.New("local nodes need root, because their steps run in containers: run as root, or give the nodes of a running cluster with --nodes tcp://HOST:PORT")
	}
	buildkitd, err := findBuildkitd(buildkitd)
	if err != nil {
		return programs{}, err
	}
	runc, err := findRunc()
	if err != nil {
		return programs{}, err
	}
	return programs{buildkitd: buildkitd, runc: runc}, nil
}

func findBuildkitd(path string) (string, error) {
	const hint = "build it in the source directory of dbake with `make buildkitd` (or `go build -o bin/ github.com/moby/buildkit/cmd/buildkitd`), or name another one with --buildkitd"
	if path != "" {
		found, err := exec.LookPath(path)
		if err != nil {
			return "", fmt.Errorf("buildkitd: %w: %s", err, hint)
		}
		return filepath.Abs(found)
	}
	beside := "the dbake executable"
	if self, err := os.Executable(); err == nil {
		beside = self
		if found, err := exec.LookPath(filepath.Join(filepath.Dir(self), "buildkitd")); err == nil {
			return found, nil
		}
	}
	found, err := exec.LookPath("buildkitd")
	if err != nil {
		return "", fmt.Errorf("buildkitd was found neither beside %s nor on PATH: %s", beside, hint)
	}
	return filepath.Abs(found)
}

// findRunc looks beyond PATH, because runc is often installed in a directory that
// only a login shell of root has there.
func findRunc() (string, error) {
	for _, name := range []string{"buildkit-runc", "runc", "/usr/local/sbin/runc", "/usr/sbin/runc", "/sbin/runc"} {
		if found, err := exec.LookPath(name); err == nil {
			return filepath.Abs(found)
		}
	}
	return "", errors.New("runc was not found, and local nodes run their steps with it: install it (Debian and Ubuntu: `apt-get install runc`)")
}
