package cni

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
)

// sysctls sets kernel parameters of this network namespace and remembers, in a file below the data directory, what was
// there before, so that Clean can put it back.
type sysctls struct{ dir string }

func (s sysctls) path() string { return filepath.Join(s.dir, "sysctls.json") }

func sysctlFile(name string) string { return "/proc/sys/" + name }

// set writes value to the parameter (as a path: net/ipv4/ip_forward) unless it has it. keep says that the parameter
// outlives what we make, so that the old value is recorded first.
func (s sysctls) set(name, value string, keep bool) error {
	old, err := readSysctl(name)
	if err != nil {
		return err
	}
	if old == value {
		return nil
	}
	if keep {
		recorded, err := s.recorded()
		if err != nil {
			return err
		}
		if _, ok := recorded[name]; !ok {
			recorded[name] = old
			if err := writeJSON(s.path(), recorded); err != nil {
				return fmt.Errorf("record %s: %w", name, err)
			}
		}
	}
	return writeSysctl(name, value)
}

func (s sysctls) recorded() (map[string]string, error) {
	recorded := map[string]string{}
	data, err := os.ReadFile(s.path())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read recorded sysctls: %w", err)
	}
	if len(data) > 0 && json.Unmarshal(data, &recorded) != nil {
		return map[string]string{}, nil // not whole after a power failure: the kernel has its defaults again
	}
	return recorded, nil
}

// restore puts every recorded value back.
func (s sysctls) restore() error {
	recorded, err := s.recorded()
	if err != nil {
		return err
	}
	var errs []error
	for name, value := range recorded {
		if err := writeSysctl(name, value); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

func readSysctl(name string) (string, error) {
	data, err := os.ReadFile(sysctlFile(name))
	if err != nil {
		return "", fmt.Errorf("read sysctl: %w", err)
	}
	return strings.TrimSpace(string(data)), nil
}

func writeSysctl(name, value string) error {
	if err := os.WriteFile(sysctlFile(name), []byte(value), 0o644); err != nil {
		return fmt.Errorf("set sysctl to %s: %w", value, err)
	}
	return nil
}
