package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"text/tabwriter"

	"github.com/spf13/cobra"

	"github.com/mini-k8s/mini/kubelet/container"
)

func imageCommand(s streams) *cobra.Command {
	socket := text("containerd-socket", "", "`PATH` of a running containerd (default: the one inside mini)")
	each := func(name, args, short string, do func(ctx context.Context, images container.Images, arg string) error) *cobra.Command {
		return withFlags(&cobra.Command{
			Use: name + " " + args, Short: short,
			RunE: func(c *cobra.Command, given []string) error {
				if len(given) == 0 {
					return usagef("%s: want at least one %s", c.CommandPath(), args)
				}
				return withImages(c.Context(), stringOf(c, "data-dir"), stringOf(c, "containerd-socket"), func(ctx context.Context, images container.Images) error {
					var errs []error
					for _, arg := range given {
						errs = append(errs, do(ctx, images, arg))
					}
					return errors.Join(errs...)
				})
			},
		}, dataDir, socket)
	}
	return group("image", "The images of this node, whose mini must be running",
		each("import", "FILE.tar…", "Import OCI or docker archives", func(ctx context.Context, images container.Images, file string) error {
			return importFile(ctx, images, file, s)
		}),
		withFlags(&cobra.Command{
			Use: "list", Short: "List the images", Args: flagsOnly,
			RunE: func(c *cobra.Command, _ []string) error { return listImages(c, s.out) },
		}, dataDir, socket, output),
		each("pull", "IMAGE…", "Pull images", func(ctx context.Context, images container.Images, ref string) error {
			return pullImage(ctx, images, ref, s)
		}),
		each("remove", "IMAGE…", "Remove images", func(ctx context.Context, images container.Images, ref string) error {
			if err := images.RemoveImage(ctx, ref); err != nil {
				return fmt.Errorf("%s: %w", ref, err)
			}
			_, err := fmt.Fprintln(s.out, ref)
			return err
		}),
	)
}

// withImages runs fn with the image store of the node whose data dir it is, through the socket of its containerd.
func withImages(ctx context.Context, dataDir, socket string, fn func(context.Context, container.Images) error) error {
	images, stop, err := container.OpenImages(container.Config{DataDir: dataDir, Socket: socket})
	if errors.Is(err, container.ErrNotRunning) {
		return fmt.Errorf("%w: start `mini server` or `mini agent` first, or say where with --data-dir", err)
	} else if err != nil {
		return err
	}
	return errors.Join(fn(ctx, images), stop())
}

func importImage(ctx context.Context, dataDir, file string, s streams) error {
	return withImages(ctx, dataDir, "", func(ctx context.Context, images container.Images) error { return importFile(ctx, images, file, s) })
}

func importFile(ctx context.Context, images container.Images, file string, s streams) error {
	f, err := os.Open(file)
	if err != nil {
		return err
	}
	defer f.Close()
	imported, err := images.Import(ctx, f)
	if err != nil {
		return fmt.Errorf("%s: %w", file, err)
	}
	for _, img := range imported {
		fmt.Fprintln(s.out, strings.Join(img.Names, " "))
	}
	return nil
}

func pullImage(ctx context.Context, images container.Images, ref string, s streams) error {
	img, err := images.Pull(ctx, ref, nil, func(done, total int64) {
		fmt.Fprintf(s.err, "\r%s: %.1f of %.1f MB ", ref, float64(done)/1e6, float64(total)/1e6)
	})
	fmt.Fprintln(s.err)
	if err != nil {
		return fmt.Errorf("pull %s: %w", ref, err)
	}
	_, err = fmt.Fprintln(s.out, strings.Join(img.Names, " "))
	return err
}

func listImages(c *cobra.Command, out io.Writer) error {
	asJSON, err := wantJSON(c)
	if err != nil {
		return err
	}
	return withImages(c.Context(), stringOf(c, "data-dir"), stringOf(c, "containerd-socket"), func(ctx context.Context, images container.Images) error {
		all, err := images.ListImages(ctx)
		if err != nil {
			return err
		}
		if asJSON {
			return printJSON(out, all)
		}
		w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
		fmt.Fprintln(w, "IMAGE\tID\tSIZE")
		for _, img := range all {
			id := strings.TrimPrefix(img.ID, "sha256:")
			for _, name := range img.Names {
				fmt.Fprintf(w, "%s\t%s\t%.1f MB\n", name, id[:min(12, len(id))], float64(img.Size)/1e6)
			}
		}
		return w.Flush()
	})
}
