// SPDX-License-Identifier: Apache-2.0

package container

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
	corev1 "k8s.io/api/core/v1"
)

// namespace is containerd's, the one that CRI uses.
const namespace = "k8s.io"

// The labels that CRI gives to containers and sandboxes, and so do we.
const (
	labelKind          = "io.cri-containerd.kind"
	labelPodName       = "io.kubernetes.pod.name"
	labelPodNamespace  = "io.kubernetes.pod.namespace"
	labelPodUID        = "io.kubernetes.pod.uid"
	labelContainerName = "io.kubernetes.container.name"
	kindSandbox        = "sandbox"
	kindContainer      = "container"
)

// The annotations of the OCI spec by which the shim puts containers of one sandbox together, and other tools find them.
const (
	annotationKind          = "io.kubernetes.cri.container-type"
	annotationSandboxID     = "io.kubernetes.cri.sandbox-id"
	annotationContainerName = "io.kubernetes.cri.container-name"
	annotationImage         = "io.kubernetes.cri.image-name"
	annotationPodName       = "io.kubernetes.cri.sandbox-name"
	annotationPodNamespace  = "io.kubernetes.cri.sandbox-namespace"
	annotationPodUID        = "io.kubernetes.cri.sandbox-uid"
)

// recordType names our part of a record in containerd.
const recordType = "mini.k8s.io/record"

// record is what we keep of a container in its record in containerd, beside the labels.
type record struct {
	SandboxID  string    `json:"sandbox"`
	Attempt    uint32    `json:"attempt,omitempty"`
	Hash       string    `json:"hash,omitempty"`
	Image      string    `json:"image,omitempty"`
	ImageID    string    `json:"imageID,omitempty"`
	Volumes    []string  `json:"volumeImages,omitempty"`
	LogPath    string    `json:"logPath,omitempty"`
	StopSignal string    `json:"stopSignal,omitempty"`
	Stdin      bool      `json:"stdin,omitempty"`
	StdinOnce  bool      `json:"stdinOnce,omitempty"`
	TTY        bool      `json:"tty,omitempty"`
	CgroupPath string    `json:"cgroup,omitempty"`
	User       *user     `json:"user,omitempty"`
	StartedAt  time.Time `json:"startedAt,omitzero"`
	FinishedAt time.Time `json:"finishedAt,omitzero"`
	ExitCode   int32     `json:"exitCode,omitempty"`
	OOMKilled  bool      `json:"oomKilled,omitempty"`
	Message    string    `json:"message,omitempty"`
}

// sandboxRecord is what we keep of a sandbox in containerd's sandbox store.
type sandboxRecord struct {
	Attempt     uint32   `json:"attempt,omitempty"`
	Ready       bool     `json:"ready,omitempty"` // RunSandbox came to its end
	HostNetwork bool     `json:"hostNetwork,omitempty"`
	IPs         []string `json:"ips,omitempty"`
	Ports       []port   `json:"ports,omitempty"`
	CgroupPath  string   `json:"cgroup,omitempty"`
}

// port is a hostPort of a sandbox, which its network must be told again when it goes.
type port struct {
	HostIP        string `json:"hostIP,omitempty"`
	HostPort      int32  `json:"hostPort"`
	ContainerPort int32  `json:"containerPort"`
	Protocol      string `json:"protocol"`
}

func marshalRecord(v any) (typeurl.Any, error) {
	data, err := json.Marshal(v)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: recordType, Value: data}, nil
}

func unmarshalRecord(extensions map[string]typeurl.Any, v any) error {
	e, ok := extensions[recordType]
	if !ok {
		return fmt.Errorf("no %s", recordType)
	}
	return json.Unmarshal(e.GetValue(), v)
}

func podLabels(pod PodRef, kind string) map[string]string {
	return map[string]string{
		labelKind:         kind,
		labelPodName:      pod.Name,
		labelPodNamespace: pod.Namespace,
		labelPodUID:       pod.UID,
	}
}

func podOf(labels map[string]string) PodRef {
	return PodRef{Namespace: labels[labelPodNamespace], Name: labels[labelPodName], UID: labels[labelPodUID]}
}

func refOf(pod *corev1.Pod) PodRef {
	return PodRef{Namespace: pod.Namespace, Name: pod.Name, UID: string(pod.UID)}
}

// exitRecord is how a container ended, as its shim wrote it down.
type exitRecord struct {
	Timestamp time.Time
	Pid       int
	Status    int
}

// readExits collects what the shims wrote down, by container. A bundle without it is of a container that runs, or whose
// shim died with it.
func readExits(bundles string) map[string]exitRecord {
	exits := make(map[string]exitRecord)
	files, _ := filepath.Glob(filepath.Join(bundles, "*", "exit.json"))
	for _, file := range files {
		data, err := os.ReadFile(file)
		var e exitRecord
		if err != nil || json.Unmarshal(data, &e) != nil || e.Timestamp.IsZero() {
			continue
		}
		exits[filepath.Base(filepath.Dir(file))] = e
	}
	return exits
}

// readStarted gives the pid that a bundle's container had.
func readPid(bundle string) (int, error) {
	data, err := os.ReadFile(filepath.Join(bundle, "init.pid"))
	if err != nil {
		return 0, err
	}
	return strconv.Atoi(string(data))
}
