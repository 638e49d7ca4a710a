// Package rootca keeps the ConfigMap kube-root-ca.crt with the cluster's CA certificate in every namespace that is not being
// deleted. Pods mount it beside their token to verify the apiserver (KEP 1205, bound service account tokens).
//
// It watches only ConfigMaps of that name, so its memory does not grow with other people's ConfigMaps. A map that was
// changed or deleted is put right again. One queue of namespace names, one worker.
package rootca
