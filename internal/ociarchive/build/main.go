// Command build makes an OCI archive of one image from files of this machine.
package main

import (
	"errors"
	"flag"
	"fmt"
	"os"
	"strings"

	ocispec "github.com/opencontainers/image-spec/specs-go/v1"

	"github.com/mini-k8s/mini/internal/ociarchive"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "build image:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	var img ociarchive.Image
	name := flag.String("name", "", "full reference of the image")
	out := flag.String("o", "", "archive to write")
	entrypoint := flag.String("entrypoint", "", "program to run, with arguments after blanks")
	flag.Func("add", "FILE=/PATH/IN/IMAGE with the file's own mode, repeatable", func(v string) error {
		from, to, ok := strings.Cut(v, "=")
		if !ok {
			return errors.New("want FILE=/PATH")
		}
		content, err := os.ReadFile(from)
		if err != nil {
			return err
		}
		st, err := os.Stat(from)
		if err != nil {
			return err
		}
		img.Files = append(img.Files, ociarchive.File{Path: to, Mode: int64(st.Mode().Perm()), Content: content})
		return nil
	})
	flag.Parse()
	if *name == "" || *out == "" {
		return errors.New("-name and -o are needed")
	}
	img.Names = []string{*name}
	img.Config = ocispec.ImageConfig{Entrypoint: strings.Fields(*entrypoint), Env: []string{"PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"}}
	f, err := os.Create(*out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	return ociarchive.Write(f, img)
}
