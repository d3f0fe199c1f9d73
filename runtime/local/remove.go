package local

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Remove deletes the builds of the nodes of a state directory ("" = [DefaultStateDir]), and
// with registry also the images pushed to its registry. It refuses while a process runs
// them ([ErrInUse]); a directory without local nodes is no error.
func Remove(ctx context.Context, dir string, registry bool) error {
	dir, err := stateDir(dir)
	if err != nil {
		return err
	}
	// Only what dbake made: the directory may be any.
	if _, err := os.Stat(filepath.Join(dir, "cluster.json")); errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	lock, err := reclaim(ctx, dir, func(st *state) { st.Nodes = nil })
	if err != nil {
		return err
	}
	defer lock.Unlock()
	places := []string{filepath.Join(dir, "nodes"), socketDir(dir)}
	if registry {
		places = append(places, filepath.Join(dir, "registry"))
	}
	for _, p := range places {
		if err := os.RemoveAll(p); err != nil {
			return fmt.Errorf("remove the state of local nodes: %w", err)
		}
	}
	return nil
}
