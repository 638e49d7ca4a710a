// Package sysctl sets kernel parameters of the calling thread's network namespace and puts them back. What a parameter
// was before is recorded in a file ahead of the change, so that it can be undone also after a crash.
package sysctl

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// Record is the path of the file that remembers what parameters were.
type Record string

// Set writes value to the parameter (as a path: net/ipv4/ip_forward) unless it has it, and records the old value if it is
// the first change.
func (r Record) Set(name, value string) error {
	old, err := Read(name)
	if err != nil || old == value {
		return err
	}
	recorded, err := r.recorded()
	if err != nil {
		return err
	}
	if _, ok := recorded[name]; !ok {
		recorded[name] = old
		if err := r.write(recorded); err != nil {
			return fmt.Errorf("record sysctl %s: %w", name, err)
		}
	}
	return Write(name, value)
}

func (r Record) write(recorded map[string]string) error {
	data, err := json.Marshal(recorded)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(string(r)), 0o700); err != nil {
		return err
	}
	tmp := string(r) + ".new"
	if err := os.WriteFile(tmp, data, 0o600); err != nil {
		return err
	}
	return os.Rename(tmp, string(r))
}

func (r Record) recorded() (map[string]string, error) {
	recorded := map[string]string{}
	data, err := os.ReadFile(string(r))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read recorded sysctls: %w", err)
	}
	if len(data) > 0 && json.Unmarshal(data, &recorded) != nil {
		return map[string]string{}, nil // not whole after a power failure: the kernel has its defaults again
	}
	return recorded, nil
}

// Restore puts every recorded value back and removes the record.
func (r Record) Restore() error {
	recorded, err := r.recorded()
	if err != nil {
		return err
	}
	var errs []error
	for name, value := range recorded {
		if err := Write(name, value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	if len(errs) == 0 {
		if err := os.Remove(string(r)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Read returns a parameter's value. The error is fs.ErrNotExist if the kernel does not have it.
func Read(name string) (string, error) {
	data, err := os.ReadFile("/proc/sys/" + name)
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

// Write sets a parameter without recording it: for those of a device of our own.
func Write(name, value string) error {
	if err := os.WriteFile("/proc/sys/"+name, []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl to %s: %w", value, err)
	}
	return nil
}
