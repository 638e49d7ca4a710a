// Package endpoints keeps the Endpoints object of every Service that has a selector, for the clients that still read it:
// mini's own proxy and DNS read EndpointSlices.
//
// One object a Service, of the Service's first address family, with the subsets packed as upstream packs them: one subset
// for each list of ports, addresses sorted. Pods that are not ready stand among notReadyAddresses; pods that are being
// deleted are left out unless the Service publishes not-ready addresses. At most 1000 addresses, marked when cut off.
// Endpoints of Services without selector are their writer's own and are never touched, except that Endpoints go with
// their Service. One queue of Services.
package endpoints
