// Package serviceaccount issues and verifies ServiceAccount tokens, and tells others how to verify them.
//
// Tokens are JWTs signed with the cluster's key (ES256; RS256 where a key from elsewhere is RSA), with upstream's claims:
// issuer, audiences, times, a token id, and below "kubernetes.io" the namespace, the ServiceAccount and what the token is
// bound to: a pod (with its node), a Secret or a Node (KEP-1205, KEP-4193). A token is good while its signature, time and
// audience are and the objects it names exist with the UIDs it names.
//
// Tokens answers TokenRequest; Authenticator is an authenticator.Token; Reviews answers TokenReview and
// SelfSubjectReview; Discovery serves the OpenID documents with the public keys. A signature is verified once per token;
// the objects are looked at each time, in listers, with one read of the API where a lister may lag. There are no
// goroutines.
package serviceaccount
