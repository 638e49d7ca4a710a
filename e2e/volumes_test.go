package e2e

import "strings"

// reader has an image as a volume in two of its containers, one of which sees only a folder of it.
const reader = `
apiVersion: v1
kind: Pod
metadata: {name: reader}
spec:
  terminationGracePeriodSeconds: 1
  volumes: [{name: system, image: {reference: "docker.io/mini/e2e:1"}}]
  containers:
  - name: folder
    image: docker.io/mini/e2e:1
    volumeMounts: [{name: system, mountPath: /read, subPath: etc}]
  - name: whole
    image: docker.io/mini/e2e:1
    command: [sleep, "1000000"]
    volumeMounts: [{name: system, mountPath: /read}]
`

// imageVolume reads an image that is mounted, and cannot change it nor run what is in it.
func (k kubectlTest) imageVolume() {
	k.Helper()
	k.says("pod/reader created", "apply", "-f", writeManifest(k.T, reader))
	k.says("condition met", "wait", "--for=condition=Ready", "pod/reader", "--timeout=60s")
	k.says("^user:x:1000:1000:", "exec", "reader", "-c", "folder", "--", "grep", "user", "/read/passwd")
	k.says("^user:x:1000:1000:", "exec", "reader", "-c", "whole", "--", "grep", "user", "/read/etc/passwd")
	k.fails("Read-only file system", "exec", "reader", "-c", "folder", "--", "touch", "/read/new")
	k.fails("ermission denied", "exec", "reader", "-c", "whole", "--", "/read/bin/busybox", "true")
	k.says(`Type: +Image \(a container image or OCI artifact\)\n +Reference: +docker.io/mini/e2e:1\n +PullPolicy: +IfNotPresent`, "describe", "pod", "reader")
	k.says("pod/missing created", "apply", "-f", writeManifest(k.T, strings.NewReplacer("name: reader", "name: missing",
		`{reference: "docker.io/mini/e2e:1"}`, `{reference: "docker.io/mini/absent:1", pullPolicy: Never}`).Replace(reader)))
	k.shows("^ErrImageNeverPull ErrImageNeverPull$", "get", "pod", "missing", "-o", "jsonpath={.status.containerStatuses[*].state.waiting.reason}")
	k.says("deleted", "delete", "pod", "reader", "missing", "--timeout=60s")
}
