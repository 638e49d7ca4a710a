package cluster

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// placeImages puts archives into every node's images folder, where they are imported at the node's start. Nodes share the
// file's blocks by hard link where the file system allows it.
func (c *Cluster) placeImages(archives []string) error {
	for _, n := range c.Nodes {
		dir := filepath.Join(c.DataDir(n.Name), "images")
		if err := os.MkdirAll(dir, 0o700); err != nil {
			return fmt.Errorf("images of node %s: %w", n.Name, err)
		}
		for _, archive := range archives {
			if err := linkOrCopy(archive, filepath.Join(dir, filepath.Base(archive))); err != nil {
				return fmt.Errorf("image %s for node %s: %w", archive, n.Name, err)
			}
		}
	}
	return nil
}

func linkOrCopy(from, to string) (err error) {
	if os.Link(from, to) == nil {
		return nil
	}
	in, err := os.Open(from)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.Create(to)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	_, err = io.Copy(out, in)
	return err
}
