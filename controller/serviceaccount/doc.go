// Package serviceaccount keeps a ServiceAccount named default in every namespace that is not being deleted: pods that name
// no account run as it, so a namespace without one can run no pod.
//
// A namespace that appears and a default account that is deleted are its only causes to act. An account that exists is
// left as it is. One queue of namespace names, one worker.
package serviceaccount
