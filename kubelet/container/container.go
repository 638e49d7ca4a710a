package container

import (
	"context"
	"io"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// State is what containerd knows of a sandbox or container.
type State uint8

// The states, in the order in which they are passed.
const (
	Unknown State = iota
	Created
	Running
	Exited
)

// PodRef names the pod something belongs to.
type PodRef struct {
	Namespace, Name, UID string
}

// Sandbox is a pod's pause container with its namespaces.
type Sandbox struct {
	ID        string
	Pod       PodRef
	Attempt   uint32
	State     State
	CreatedAt time.Time
	IPs       []string // none with hostNetwork
	NetNS     string   // path; "" with hostNetwork
}

// Container is one container of a pod, running or ended.
type Container struct {
	ID        string
	SandboxID string
	Pod       PodRef
	Name      string
	Attempt   uint32 // the restart count it was created with
	Hash      string // of the spec it was made from, as the pod layer gave it
	State     State
	Image     string // as the pod asked for it
	ImageID   string // name@sha256:…, what status.imageID shows
	// VolumeImages are the IDs of the images that it mounts.
	VolumeImages []string
	LogPath      string
	CreatedAt    time.Time
	StartedAt    time.Time
	FinishedAt   time.Time
	ExitCode     int32
	OOMKilled    bool
	Message      string // termination message or why it could not start
	// User is who its first process runs as; nil for a container that an older mini made.
	User *corev1.LinuxContainerUser
}

// Event says that something happened in containerd; the pod layer reads the state anew.
type Event struct {
	Pod         PodRef
	ContainerID string // the sandbox's ID if it was the pause container
	Exited      bool
	ExitCode    int32
	OOM         bool
	Time        time.Time
}

// SandboxConfig is what a sandbox is made from.
type SandboxConfig struct {
	Pod          *corev1.Pod
	Attempt      uint32
	Hostname     string
	CgroupParent string // the pod's cgroup, already made and limited
	LogDir       string
	Sysctls      map[string]string
}

// ContainerConfig is what a container is made from: the resolved view of one container of a pod.
type ContainerConfig struct {
	Pod          *corev1.Pod
	Container    *corev1.Container // securityContext, resources, tty, stdin, workingDir are read from here
	SandboxID    string
	Attempt      uint32
	Hash         string
	Image        string   // a reference that is in the image store
	Command      []string // $(VAR) already expanded; empty takes the image's ENTRYPOINT
	Args         []string // empty takes the image's CMD
	Env          []string // "K=V"; the image's own come first
	Mounts       []Mount
	Devices      []Device
	CgroupParent string
	LogPath      string // absolute; CRI log format
	// TargetID shares the PID namespace of this container (ephemeral containers).
	TargetID string
}

// Mount is a bind mount into a container: of a path of the node, or of an image's root file system.
type Mount struct {
	HostPath string
	// Image, instead of HostPath, is a reference that is in the image store. It is mounted read-only and without the right
	// to execute; SubPath is a folder in it, "" the whole.
	Image, SubPath string

	ContainerPath string
	ReadOnly      bool
	// RecursiveReadOnly extends ReadOnly to what is mounted below (KEP-3857).
	RecursiveReadOnly bool
	Propagation       corev1.MountPropagationMode // "" is None
}

// Device is a device node of this machine that a container gets.
type Device struct {
	HostPath      string // it, or a link to it
	ContainerPath string
	ReadOnly      bool
}

// Streams are a client's ends of an exec or attach. Resize is nil without a TTY.
type Streams struct {
	Stdin          io.Reader
	Stdout, Stderr io.Writer
	TTY            bool
	Resize         <-chan TerminalSize
}

// TerminalSize is in character cells.
type TerminalSize struct{ Width, Height uint16 }

// Runtime runs sandboxes and containers. Every method is safe to call again after a failure or a crash: what is already
// there is taken over, what is already gone is no error.
type Runtime interface {
	// List is the truth about this node: everything that carries our labels, in any state.
	List(ctx context.Context) ([]Sandbox, []Container, error)
	// Events delivers exits and OOMs until ctx ends; a reader that is too slow gets a zero Event, meaning "read everything anew".
	Events(ctx context.Context) <-chan Event

	RunSandbox(ctx context.Context, cfg SandboxConfig) (Sandbox, error) // network included; undoes everything on error
	StopSandbox(ctx context.Context, id string) error                   // kills what runs in it, then the network
	RemoveSandbox(ctx context.Context, id string) error                 // with its containers

	CreateContainer(ctx context.Context, cfg ContainerConfig) (Container, error) // as List shows it
	StartContainer(ctx context.Context, id string) error
	// StopContainer sends the image's stop signal, waits for grace, kills; returns when the container has ended.
	StopContainer(ctx context.Context, id string, grace time.Duration) error
	RemoveContainer(ctx context.Context, id string) error // its logs stay
	ReopenLog(ctx context.Context, id string) error       // after rotation

	Exec(ctx context.Context, id string, command []string, s Streams) (exitCode int, err error)
	Attach(ctx context.Context, id string, s Streams) error
	PortForward(ctx context.Context, sandboxID string, port int32, conn io.ReadWriteCloser) error

	// Stats are read from cgroups, not from containerd.
	UpdateResources(ctx context.Context, id string, r corev1.ResourceRequirements) error
}

// Credentials are for one registry.
type Credentials struct{ Username, Password, IdentityToken string }

// Image is one image of this node.
type Image struct {
	ID     string   // sha256:… of the config
	Names  []string // references, tags and digests
	Size   int64    // bytes
	Pinned bool
	// User, Entrypoint etc. stay inside: the runtime reads them when it makes a container.
	UID      *int64 // numeric user of the image, if it has one
	Username string
}

// Images is the node's image store.
type Images interface {
	Image(ctx context.Context, ref string) (Image, error) // ErrImageNotFound
	ListImages(ctx context.Context) ([]Image, error)
	// Pull fetches ref through the mirrors configured, trying each of creds, and reports progress in bytes.
	Pull(ctx context.Context, ref string, creds []Credentials, progress func(done, total int64)) (Image, error)
	Import(ctx context.Context, tar io.Reader) ([]Image, error)
	RemoveImage(ctx context.Context, ref string) error
}
