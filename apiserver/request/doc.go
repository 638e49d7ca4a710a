// Package request carries what the server's handler chain has found out about an HTTP request: what it asks for (Info) and
// who asks (user.Info), from the outermost handler to storage, admission and subresources.
//
// There is one State per request, put into the context once by the chain and read with From, InfoFrom and UserFrom. It is
// written only by the chain, before the handler that serves the request is called, so readers need no lock.
//
// Parse follows the URL rules of the Kubernetes API conventions: /api/VERSION and /apis/GROUP/VERSION, then an optional
// namespaces/NAMESPACE, resource, name, subresource; everything else is a non-resource request. It does not know which
// groups and resources exist.
package request
