// Command cgroup2 shows that mini runs pods with limits on a machine with cgroup v2, on one that has only v1: it boots a
// Debian kernel in qemu, in software emulation, and has package guest run the scenario there. `make e2e-cgroup2`.
//
// The machine is nothing but an initramfs: mini, the guest program as init, busybox, this machine's iptables with its
// libraries, and the kernel's modules for networks and overlays. There is no disk, no network card and no internet in it.
// What the guest says comes over the serial port: lines that begin with "cgroup2:" are the scenario's and are shown, all
// else is in OUT/console.log and shown at its end if the scenario fails. The last such line is "cgroup2: PASS" or
// "cgroup2: FAIL" with the reason; a machine that ends or falls silent without it has failed too.
package main
