#!/usr/bin/env bash
# A cluster of a server and two agents on this machine, a Deployment of three pods and a Service, called in three ways.
# Run again it goes on with the cluster that is there; with "down" it removes everything it made.
set -euo pipefail
cd "$(dirname "$0")/.."
mini=$PWD/bin/mini
name=quickstart
port=8080
dir=/var/lib/mini-clusters/$name
kubeconfig=$dir/kubeconfig

if [ "${1:-}" = down ]; then
	[ -x "$mini" ] || { echo "bin/mini is not there, so nothing can be running; \`make build\` makes it" >&2; exit 1; }
	exec "$mini" cluster delete $name
fi

step() { printf '\n== %s\n' "$*"; }
kubectl() { KUBECONFIG=$kubeconfig "$mini" kubectl "$@"; }

step "cluster $name: a server and two agents"
if [ -f "$kubeconfig" ] && kubectl get --raw /readyz >/dev/null 2>&1; then
	echo "it runs already"
else
	"$mini" cluster delete $name
	while (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; do port=$((port + 1)); done
	"$mini" cluster create $name --agents 2 --publish $port:30080 --image bin/images/hello.tar
fi
published=$("$mini" cluster list -o json | sed -n 's/.*"hostPort": \([0-9]*\).*/\1/p' | head -1)

step "a Deployment of three pods and a Service"
kubectl apply -f examples/hello/hello.yaml
kubectl rollout status deployment/hello --timeout=60s
kubectl get pods -o wide
kubectl get service hello
ip=$(kubectl get service hello -o jsonpath='{.spec.clusterIP}')

# Each call is a connection of its own, so that the Service chooses anew; nine usually meet all three pods.
call() { for _ in $(seq 9); do "$@"; done | sort | uniq -c; }

step "from inside the node agent-1, by the Service's ClusterIP: http://$ip"
call "$mini" cluster exec $name agent-1 -- curl -fsS --max-time 5 "http://$ip"

step "from inside the node server, by its DNS name: http://hello.default.svc.cluster.local"
call "$mini" cluster exec $name server -- curl -fsS --max-time 5 http://hello.default.svc.cluster.local

step "from this machine, by the published NodePort: http://127.0.0.1:$published"
call curl -fsS --max-time 5 "http://127.0.0.1:$published"

cat <<TXT

kubectl:   export KUBECONFIG=$kubeconfig    (also merged as context mini-$name)
stop it:   bin/mini cluster stop $name
remove it: make quickstart-down
TXT
