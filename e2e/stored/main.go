package main

import (
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
)

func main() {
	if err := run(os.Args[1:], os.Stdin, os.Stdout); err != nil {
		fmt.Fprintln(os.Stderr, "stored:", err)
		os.Exit(1)
	}
}

// Object is one object and the bytes that etcd holds for it.
type Object struct {
	Group      string          `json:"group"` // of the kind as it is served
	Version    string          `json:"version"`
	Kind       string          `json:"kind"`
	Resource   string          `json:"resource"`
	Namespaced bool            `json:"namespaced"`
	Key        string          `json:"key"` // in etcd
	Stored     []byte          `json:"stored"`
	JSON       json.RawMessage `json:"json,omitempty"` // as served, without a resourceVersion
	Error      string          `json:"error,omitempty"`
}

func run(args []string, in io.Reader, out io.Writer) error {
	if len(args) == 0 {
		return errors.New("say examples or decode")
	}
	flags := flag.NewFlagSet(args[0], flag.ContinueOnError)
	n := flags.Int("n", 5, "objects of each kind")
	if err := flags.Parse(args[1:]); err != nil {
		return err
	}
	all, err := kinds()
	if err != nil {
		return err
	}
	to := json.NewEncoder(out)
	switch args[0] {
	case "examples":
		return examples(all, *n, to)
	case "decode":
		return decode(all, json.NewDecoder(in), to)
	}
	return fmt.Errorf("no command %q", args[0])
}

func examples(all []*kind, n int, to *json.Encoder) error {
	for _, k := range all {
		for i := range n {
			o, err := k.example(i)
			if err != nil {
				return fmt.Errorf("%s: %w", k.row.GVK, err)
			}
			if err := to.Encode(o); err != nil {
				return err
			}
		}
	}
	return nil
}

func decode(all []*kind, from *json.Decoder, to *json.Encoder) error {
	byName := map[string]*kind{}
	for _, k := range all {
		byName[k.row.GVK.GroupVersion().String()+"/"+k.row.Name] = k
	}
	for {
		var o Object
		if err := from.Decode(&o); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		k := byName[o.version()+"/"+o.Resource]
		if k == nil {
			return fmt.Errorf("no kind %s in %s is stored", o.Resource, o.version())
		}
		if err := k.decode(&o); err != nil {
			o.Error = err.Error()
		}
		if err := to.Encode(&o); err != nil {
			return err
		}
	}
}

func (o *Object) version() string {
	if o.Group == "" {
		return o.Version
	}
	return o.Group + "/" + o.Version
}
