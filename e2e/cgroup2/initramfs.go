package main

import (
	"bufio"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
)

// moduleDirs are the parts of the kernel's modules that a node may ask for, and what those depend on.
var moduleDirs = []string{"arch/x86/crypto", "crypto", "drivers/net/dummy.ko", "drivers/net/veth.ko", "drivers/net/vxlan", "fs/overlayfs", "lib", "net"}

// initramfs writes the machine's only file system to out.
func initramfs(cfg config, release, out string) (err error) {
	f, err := os.Create(out)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	w := bufio.NewWriterSize(f, 1<<20)
	a := newArchive(w)
	for _, d := range []string{"dev", "proc", "sys", "run", "tmp", "root", "mnt", "var/log", "var/lib/mini"} {
		a.dir(d)
	}
	box, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	for to, from := range map[string]string{
		"init": cfg.guest, "usr/local/bin/mini": cfg.mini, "images/cgroup2.tar": cfg.image, "bin/busybox": box,
	} {
		if err := a.copy(to, from); err != nil {
			return err
		}
	}
	for _, link := range []string{"bin/sh", "bin/mount", "bin/umount", "sbin/modprobe"} {
		a.link(link, "/bin/busybox")
	}
	a.text("etc/passwd", "root:x:0:0:root:/root:/bin/sh\n")
	a.text("etc/group", "root:x:0:\n")
	a.text("etc/hosts", "127.0.0.1 localhost\n")
	a.text("etc/resolv.conf", "nameserver 192.0.2.1\n")
	if err := errors.Join(iptables(a), modules(a, cfg.kernel, release)); err != nil {
		return err
	}
	return errors.Join(a.close(), w.Flush())
}

// copy adds a file of this machine with its mode.
func (a *archive) copy(to, from string) error {
	f, err := os.Open(from)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		return err
	}
	a.file(to, int(st.Mode().Perm()), st.Size(), f)
	return a.err
}

// library is a line of ldd with the place of a file.
var library = regexp.MustCompile(`(/\S+) \(0x`)

// libraries lists what ldd finds for programs and libraries of this machine, each once.
func libraries(of ...string) ([]string, error) {
	out, err := exec.Command("ldd", of...).Output()
	if err != nil {
		return nil, fmt.Errorf("ldd %s: %w", of[0], err)
	}
	var found []string
	for _, m := range library.FindAllStringSubmatch(string(out), -1) {
		if !slices.Contains(found, m[1]) {
			found = append(found, m[1])
		}
	}
	return found, nil
}

// iptables adds this machine's iptables, the nft variant with its extensions, and the libraries of all.
func iptables(a *archive) error {
	program, err := exec.LookPath("xtables-nft-multi")
	if err != nil {
		return err
	}
	for _, family := range []string{"iptables", "ip6tables"} {
		for _, end := range []string{"", "-save", "-restore"} {
			a.link("usr/sbin/"+family+end, "xtables-nft-multi")
		}
	}
	needed, err := libraries(program)
	if err != nil {
		return err
	}
	folder := slices.IndexFunc(needed, func(l string) bool { return strings.HasPrefix(filepath.Base(l), "libxtables.so") })
	if folder < 0 {
		return fmt.Errorf("%s does not use libxtables, but %v", program, needed)
	}
	// iptables looks below /usr/lib, whatever the loader calls the folder.
	extensions, err := filepath.Glob(filepath.Join("/usr", strings.TrimPrefix(filepath.Dir(needed[folder]), "/usr"), "xtables", "*.so"))
	if err != nil || len(extensions) == 0 {
		return fmt.Errorf("%s has no extensions (%v)", program, err)
	}
	if needed, err = libraries(append(extensions, program)...); err != nil {
		return err
	}
	if err := a.copy("usr/sbin/xtables-nft-multi", program); err != nil {
		return err
	}
	for _, file := range slices.Concat(needed, extensions) {
		if err := a.copy(file, file); err != nil {
			return err
		}
	}
	return nil
}

// modules adds a part of the kernel's modules, with the index of all.
func modules(a *archive, kernel, release string) error {
	if out, err := exec.Command("depmod", "-b", kernel, release).CombinedOutput(); err != nil {
		return fmt.Errorf("depmod: %w: %s", err, strings.TrimSpace(string(out)))
	}
	top := filepath.Join(kernel, "lib", "modules", release)
	index, err := filepath.Glob(filepath.Join(top, "modules.*"))
	if err != nil {
		return err
	}
	for _, from := range index {
		if err := a.copy(filepath.Join("lib/modules", release, filepath.Base(from)), from); err != nil {
			return err
		}
	}
	for _, part := range moduleDirs {
		err := filepath.WalkDir(filepath.Join(top, "kernel", part), func(from string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			rel, err := filepath.Rel(kernel, from)
			if err != nil {
				return err
			}
			return a.copy(rel, from)
		})
		if err != nil {
			return err
		}
	}
	return nil
}
