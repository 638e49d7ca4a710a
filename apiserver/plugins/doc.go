// Package plugins puts together what decides about the API server's requests: authentication (package authn), ServiceAccount
// tokens (serviceaccount), authorization (authz), admission, and the streams to kubelets (stream).
//
// New returns the function that apiserver.Config.Plugins wants. All of it shares one set of informers over the server's own
// loopback client, which Run starts and stops; decisions are good once Synced is closed, and members of system:masters are
// served before that.
package plugins
