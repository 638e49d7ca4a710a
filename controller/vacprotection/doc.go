// Package vacprotection keeps a VolumeAttributesClass that is being deleted until no claim and no volume names it any more:
// the finalizer kubernetes.io/vac-protection is added to every class and taken away here (KEP-3751).
//
// A claim names a class by what it asks for, what it has and what a driver is just changing it to; a volume by what it was
// made with. Both are looked up in an index by name. New classes have the finalizer from their making; those from before get
// it when the controller starts. Before the finalizer goes the API is asked once more, so that a claim made a moment ago,
// which the caches do not know yet, counts (upstream lets that race be).
//
// One queue of names, one worker; the plan is pure.
package vacprotection
