// Package quota counts objects against ResourceQuotas: how much an object uses, which quotas it counts against, and
// whether it still fits. Admission asks it before an object is stored, the quota controller when it counts what is there, so
// that both always come to the same sum.
//
// What is counted, and the names it is counted under, are upstream's (pkg/quota/v1/evaluator/core):
//
//	count/RESOURCE[.GROUP]                             every object of any namespaced resource, custom ones too
//	configmaps secrets services replicationcontrollers
//	resourcequotas persistentvolumeclaims              the same, by older names
//	pods, cpu, memory, ephemeral-storage,
//	requests.* limits.* hugepages-* requests.hugepages-*
//	requests.DOMAIN/NAME                               pods that have not ended
//	services.nodeports services.loadbalancers          ports and load balancers of Services
//	requests.storage,
//	CLASS.storageclass.storage.k8s.io/*                claims, in all and of a class
//
// Functions are pure and never change what they are given. Amounts are never negative.
package quota
