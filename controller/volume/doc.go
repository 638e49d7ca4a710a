// Package volume binds PersistentVolumeClaims to PersistentVolumes that are there already, keeps the phases of both, and
// protects what is in use.
//
// A claim gets the smallest volume that offers what it asks for (class, access modes, mode, size, labels), or the one that it
// or the volume names. A class with volumeBindingMode WaitForFirstConsumer is waited for until a pod uses the claim. The binding
// is written to the volume first (spec.claimRef), where only one claim can win, and then to the claim; each write is one sync,
// so that a crash between two of them is just a later sync. A volume whose claim is gone is Released and stays as it is:
// nothing here deletes data, and nothing provisions (a CSI driver's own controllers do, and are left room).
//
// A claim being deleted stays while a pod that is on a node and has not ended uses it, a volume while a claim has it: the
// finalizers kubernetes.io/pvc-protection and pv-protection are taken away here (KEP-498).
//
// Two queues, one of claims and one of volumes; both plans are pure.
package volume
