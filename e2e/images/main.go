package main

import (
	"bufio"
	"errors"
	"flag"
	"fmt"
	"os"

	"github.com/mini-k8s/mini/internal/ociarchive"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run() (err error) {
	out := flag.String("o", "", "archive to write")
	var p programs
	flag.Func("agnhost", "upstream's agnhost, linked statically", read(&p.agnhost))
	flag.Func("nnp", "upstream's nonewprivs test program, linked statically", read(&p.nnp))
	flag.Func("pause", "program that only waits", read(&p.pause))
	flag.Func("sh", "the shell of the folder sh, linked statically", read(&p.sh))
	flag.StringVar(&p.porter, "porter", "", "folder with localhost.crt and localhost.key of agnhost's porter")
	flag.Parse()
	if *out == "" || p.agnhost == nil || p.nnp == nil || p.pause == nil || p.sh == nil || p.porter == "" || flag.NArg() == 0 {
		return errors.New("all flags and the Debian packages are needed; see -help")
	}
	system, err := debian(flag.Args())
	if err != nil {
		return err
	}
	images, err := standIns(system, p)
	if err != nil {
		return err
	}
	f, err := os.Create(*out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriter(f)
	if err := ociarchive.Write(w, images...); err != nil {
		return err
	}
	return w.Flush()
}

// read makes a flag's value the content of the file it names.
func read(into *[]byte) func(string) error {
	return func(name string) (err error) {
		*into, err = os.ReadFile(name)
		return err
	}
}
