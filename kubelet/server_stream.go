// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strconv"
	"time"

	"github.com/gorilla/websocket"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	clientportforward "k8s.io/client-go/tools/portforward"
	"k8s.io/cri-streaming/pkg/streaming/portforward"
	"k8s.io/cri-streaming/pkg/streaming/remotecommand"
	"k8s.io/streaming/pkg/httpstream/wsstream"
	utilexec "k8s.io/utils/exec"

	"github.com/mini-k8s/mini/kubelet/container"
)

// The limits of streams, as upstream's.
const (
	streamIdle     = 4 * time.Hour
	streamCreation = 30 * time.Second
)

// serveExec runs a command in a container: SPDY, WebSocket v4 (both by cri-streaming) and v5.
func (k *Kubelet) serveExec(w http.ResponseWriter, r *http.Request) {
	id, _, herr := k.target(r)
	if herr != nil {
		herr.write(w)
		return
	}
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		(&httpError{http.StatusBadRequest, err.Error()}).write(w)
		return
	}
	command := r.URL.Query()["command"]
	run := streamer{k.cfg.Runtime, *opts}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		k.serveV5(w, r, opts, func(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, resize <-chan remotecommand.TerminalSize) error {
			return run.ExecInContainer(ctx, "", "", id, command, in, out, errOut, opts.TTY, resize, 0)
		})
		return
	}
	remotecommand.ServeExec(w, r, run, r.PathValue("pod"), "", id, command, opts, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

// serveAttach connects to a container's own streams.
func (k *Kubelet) serveAttach(w http.ResponseWriter, r *http.Request) {
	id, spec, herr := k.target(r)
	if herr != nil {
		herr.write(w)
		return
	}
	opts, err := remotecommand.NewOptions(r)
	if err != nil {
		(&httpError{http.StatusBadRequest, err.Error()}).write(w)
		return
	}
	opts.TTY = spec.TTY // what it was made with, whatever the client thinks
	opts.Stdin = opts.Stdin && spec.Stdin
	if opts.TTY {
		opts.Stderr = false
	}
	run := streamer{k.cfg.Runtime, *opts}
	if wsstream.IsWebSocketRequestWithStreamCloseProtocol(r) {
		k.serveV5(w, r, opts, func(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, resize <-chan remotecommand.TerminalSize) error {
			return run.AttachContainer(ctx, "", "", id, in, out, errOut, opts.TTY, resize)
		})
		return
	}
	remotecommand.ServeAttach(w, r, run, r.PathValue("pod"), "", id, opts, streamIdle, streamCreation, remotecommand.SupportedStreamingProtocols)
}

// streamer is the runtime as cri-streaming wants it. What the options do not ask for stays away from the runtime: over WebSocket
// cri-streaming passes a stream for it all the same.
type streamer struct {
	rt   container.Runtime
	opts remotecommand.Options
}

var (
	_ remotecommand.Executor    = streamer{}
	_ remotecommand.Attacher    = streamer{}
	_ portforward.PortForwarder = streamer{}
)

func (x streamer) streams(in io.Reader, out, errOut io.WriteCloser, tty bool, sizes <-chan remotecommand.TerminalSize) (container.Streams, func()) {
	s := container.Streams{TTY: tty}
	if x.opts.Stdin {
		s.Stdin = in
	}
	if x.opts.Stdout {
		s.Stdout = out
	}
	if x.opts.Stderr && !tty {
		s.Stderr = errOut
	}
	if sizes == nil || !tty {
		return s, func() {}
	}
	resize, stop := make(chan container.TerminalSize), make(chan struct{})
	go func() {
		defer close(resize)
		for {
			select {
			case z, ok := <-sizes:
				if !ok {
					return
				}
				select {
				case resize <- container.TerminalSize{Width: z.Width, Height: z.Height}:
				case <-stop:
					return
				}
			case <-stop:
				return
			}
		}
	}()
	s.Resize = resize
	return s, func() { close(stop) }
}

// ExecInContainer implements remotecommand.Executor.
func (s streamer) ExecInContainer(ctx context.Context, _, _, id string, command []string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize, _ time.Duration) error {
	st, stop := s.streams(in, out, errOut, tty, resize)
	defer stop()
	code, err := s.rt.Exec(ctx, id, command, st)
	if err != nil {
		return err
	}
	if code != 0 {
		return utilexec.CodeExitError{Err: fmt.Errorf("command terminated with exit code %d", code), Code: code}
	}
	return nil
}

// AttachContainer implements remotecommand.Attacher.
func (s streamer) AttachContainer(ctx context.Context, _, _, id string, in io.Reader, out, errOut io.WriteCloser, tty bool, resize <-chan remotecommand.TerminalSize) error {
	st, stop := s.streams(in, out, errOut, tty, resize)
	defer stop()
	return s.rt.Attach(ctx, id, st)
}

// PortForward implements portforward.PortForwarder; the pod's name is its sandbox here.
func (s streamer) PortForward(ctx context.Context, sandbox, _ string, port int32, stream io.ReadWriteCloser) error {
	return s.rt.PortForward(ctx, sandbox, port, stream)
}

// The channels of the WebSocket protocol for exec and attach.
const (
	channelStdin = iota
	channelStdout
	channelStderr
	channelError
	channelResize
	channelCount
)

// protocolV5 adds to v4 that one direction can be closed, which SPDY always could (KEP-4006).
const protocolV5 = "v5.channel.k8s.io"

// serveV5 runs a command over the WebSocket protocol v5.
func (k *Kubelet) serveV5(w http.ResponseWriter, r *http.Request, opts *remotecommand.Options, run func(ctx context.Context, in io.Reader, out, errOut io.WriteCloser, resize <-chan remotecommand.TerminalSize) error) {
	channels := make([]wsstream.ChannelType, channelCount)
	for i, on := range map[int]bool{channelStdout: opts.Stdout, channelStderr: opts.Stderr, channelError: true} {
		if channels[i] = wsstream.IgnoreChannel; on {
			channels[i] = wsstream.WriteChannel
		}
	}
	channels[channelStdin], channels[channelResize] = wsstream.IgnoreChannel, wsstream.ReadChannel
	if opts.Stdin {
		channels[channelStdin] = wsstream.ReadChannel
	}
	conn := wsstream.NewConn(map[string]wsstream.ChannelProtocolConfig{protocolV5: {Binary: true, Channels: channels}})
	conn.SetIdleTimeout(streamIdle)
	_, ch, err := conn.Open(w, r)
	if err != nil {
		k.log.Debug("cannot open a WebSocket", "err", err)
		return
	}
	defer conn.Close()
	if opts.Stdout { // an empty message tells the client that the connection stands
		ch[channelStdout].Write(nil)
	} else {
		ch[channelError].Write(nil)
	}
	ctx, cancel := context.WithCancel(r.Context())
	defer cancel()
	sizes := make(chan remotecommand.TerminalSize)
	go func() {
		defer close(sizes)
		d := json.NewDecoder(ch[channelResize])
		for {
			var z remotecommand.TerminalSize
			if d.Decode(&z) != nil {
				return
			}
			select {
			case sizes <- z:
			case <-ctx.Done():
				return
			}
		}
	}()
	var in io.Reader
	var out, errOut io.WriteCloser
	if opts.Stdin {
		in = ch[channelStdin]
	}
	if opts.Stdout {
		out = ch[channelStdout]
	}
	if opts.Stderr {
		errOut = ch[channelStderr]
	}
	status := exitStatus(run(ctx, in, out, errOut, sizes))
	if err := json.NewEncoder(ch[channelError]).Encode(status); err != nil {
		k.log.Debug("cannot send the end of a command", "err", err)
	}
}

// exitStatus says how a command ended, in the form of protocols v4 and v5.
func exitStatus(err error) *metav1.Status {
	var exit utilexec.ExitError
	switch {
	case err == nil:
		return &metav1.Status{Status: metav1.StatusSuccess}
	case errors.As(err, &exit) && exit.Exited():
		return &metav1.Status{Status: metav1.StatusFailure, Reason: remotecommand.NonZeroExitCodeReason,
			Message: "command terminated with non-zero exit code: " + err.Error(),
			Details: &metav1.StatusDetails{Causes: []metav1.StatusCause{{Type: remotecommand.ExitCodeCauseType, Message: strconv.Itoa(exit.ExitStatus())}}}}
	}
	return &metav1.Status{Status: metav1.StatusFailure, Reason: metav1.StatusReasonInternalError, Code: http.StatusInternalServerError,
		Message: "Internal error occurred: error executing command in container: " + err.Error()}
}

// servePortForward forwards connections into a pod: SPDY, WebSocket v4, and SPDY tunnelled through a WebSocket.
func (k *Kubelet) servePortForward(w http.ResponseWriter, r *http.Request) {
	p := k.findPod(r.PathValue("namespace"), r.PathValue("pod"), types.UID(r.PathValue("uid")))
	if p == nil {
		(&httpError{http.StatusNotFound, "pod does not exist"}).write(w)
		return
	}
	p.mu.Lock()
	sandbox := ""
	if len(p.sandboxes) > 0 && p.sandboxes[0].State == container.Running {
		sandbox = p.sandboxes[0].ID
	}
	p.mu.Unlock()
	if sandbox == "" {
		(&httpError{http.StatusBadRequest, fmt.Sprintf("pod %q is not running", r.PathValue("pod"))}).write(w)
		return
	}
	if wsstream.IsWebSocketRequestWithTunnelingProtocol(r) {
		k.serveTunnel(w, r, sandbox)
		return
	}
	opts, err := portforward.NewV4Options(r)
	if err != nil {
		(&httpError{http.StatusBadRequest, err.Error()}).write(w)
		return
	}
	portforward.ServePortForward(w, r, streamer{rt: k.cfg.Runtime}, sandbox, "", opts, streamIdle, streamCreation, portforward.SupportedProtocols)
}

// tunnelProtocol is the WebSocket subprotocol that carries SPDY (KEP-4006).
const tunnelProtocol = "SPDY/3.1+" + portforward.ProtocolV1Name

// serveTunnel speaks SPDY inside a WebSocket: to the port-forward code it looks like an upgraded connection.
func (k *Kubelet) serveTunnel(w http.ResponseWriter, r *http.Request, sandbox string) {
	up := websocket.Upgrader{Subprotocols: []string{tunnelProtocol}, CheckOrigin: func(*http.Request) bool { return true }}
	ws, err := up.Upgrade(w, r, nil)
	if err != nil {
		k.log.Debug("cannot open a WebSocket", "err", err)
		return
	}
	conn := clientportforward.NewTunnelingConnection("kubelet", ws)
	defer conn.Close()
	inner := r.Clone(r.Context())
	inner.Header = http.Header{"Connection": {"Upgrade"}, "Upgrade": {"SPDY/3.1"}, "X-Stream-Protocol-Version": {portforward.ProtocolV1Name}}
	portforward.ServePortForward(&tunnelWriter{conn: conn, header: http.Header{}}, inner, streamer{rt: k.cfg.Runtime}, sandbox, "",
		&portforward.V4Options{}, streamIdle, streamCreation, portforward.SupportedProtocols)
}

// tunnelWriter is an http.ResponseWriter whose hijacked connection is the tunnel. The answer to the upgrade went out already, as the WebSocket's.
type tunnelWriter struct {
	conn   net.Conn
	header http.Header
}

func (t *tunnelWriter) Header() http.Header         { return t.header }
func (t *tunnelWriter) WriteHeader(int)             {}
func (t *tunnelWriter) Write(p []byte) (int, error) { return len(p), nil }
func (t *tunnelWriter) Hijack() (net.Conn, *bufio.ReadWriter, error) {
	return t.conn, bufio.NewReadWriter(bufio.NewReader(t.conn), bufio.NewWriter(t.conn)), nil
}
