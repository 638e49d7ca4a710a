// Package batch holds the rows of the batch group: Jobs and CronJobs, with their status.
//
// Behaviour follows pkg/apis/batch and pkg/registry/batch of Kubernetes; the pod template's defaults and validation are those of
// package core. A Job is given a selector of its own unless manualSelector says otherwise. Its status only ever moves
// forward, whoever writes it: clients rely on a finished Job staying finished. Everything here is a pure function of the
// objects handed in and starts nothing.
package batch
