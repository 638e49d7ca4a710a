// Package stream hands requests for a pod's logs, for exec, attach and port-forward, and for the proxy subresources on to
// where the answer is: the kubelet of the pod's node, a pod, a Service's endpoint.
//
// A kubelet is reached over mutual TLS at its Node's InternalIP and must present a certificate of the cluster's CA for that
// address; it sees the API server's client certificate and nothing of the user's credentials. WebSocket and SPDY upgrades
// are passed through byte by byte, since kubelets speak both. What the object's state already answers (not scheduled, no
// such container) is answered here, in upstream's words.
//
// Connect returns the functions by subresource for apiserver.Plugins. There is no goroutine but those of requests.
package stream
