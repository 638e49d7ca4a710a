// Package authn finds out who makes a request to the API server.
//
// New gives one authenticator.Request that looks, in this order, at the client certificate, at the bearer token (in the
// Authorization header, or in a WebSocket's subprotocol as browsers must send it), and, for the few paths that strangers
// may see, makes the request system:anonymous. A credential that is there and is wrong is an error, also on those paths:
// the request is answered with 401. So is a request without any credential elsewhere.
//
// Users get the groups of their credential and system:authenticated. Their extra carries the credential's id
// (authentication.kubernetes.io/credential-id), as upstream's does.
//
// Certificates that were verified once are remembered by their hash until they end, so that a request on an old
// connection costs a hash. Tokens are package serviceaccount's and Bootstrap's business. There are no goroutines.
package authn
