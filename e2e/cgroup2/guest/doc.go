// Command guest is the init of the machine that e2e/cgroup2 boots: it makes what a distribution would have made (mounts,
// links, a cgroup for mini's service), starts `mini server`, runs the scenario against it, says on the console what came of
// it, and turns the machine off. Steps are shown as they pass; the first that fails ends the scenario.
//
// As process 1 it does nothing but start itself anew and collect orphans, so that the scenario can wait for its children.
// The checks wait on watches and, for the kernel's files, which nobody announces, on short reads again; how long they wait is
// made for software emulation, ten to thirty times slower than a machine.
package main
