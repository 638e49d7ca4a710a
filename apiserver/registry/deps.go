package registry

import (
	"context"
	"log/slog"
	"net/netip"

	authenticationv1 "k8s.io/api/authentication/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apiserver/pkg/authentication/user"
	"k8s.io/apiserver/pkg/authorization/authorizer"

	"github.com/mini-k8s/mini/store"
)

// Deps is what rows need from their surroundings. A row whose function is nil here is still served; what depends on the
// function answers 405 or is skipped, as said at each field.
type Deps struct {
	// Collection returns the collection below /registry/KEY/, whose objects are of kind stored; the same one for the same
	// key each time. It is called when a hook first needs it, never while rows are being built.
	Collection func(key string, stored schema.GroupVersionKind) store.Collection

	// User is who makes the request of ctx; CertificateSigningRequests record it. False where nobody is known.
	User func(ctx context.Context) (user.Info, bool)

	// ServiceCIDRs are the ranges of cluster addresses, the first one the primary; at most one of each family.
	ServiceCIDRs []netip.Prefix
	NodePorts    PortRange

	// CreateToken answers serviceaccounts/token; the subresource is not there where it is nil.
	CreateToken func(ctx context.Context, namespace, name string, req *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error)

	// Review answers the create-only kinds of authentication.k8s.io and authorization.k8s.io (TokenReview,
	// SubjectAccessReview, …) by kind name; kinds missing here are not served.
	Review map[string]func(ctx context.Context, obj store.Object) (store.Object, error)

	// Authorizer and ResourceOf let rows ask whether the user may read what an object refers to (admission policies and
	// their parameters). ResourceOf is the plural name of a served kind. nil Authorizer asks nobody; without ResourceOf the
	// user must have the right to all resources.
	Authorizer authorizer.UnconditionalAuthorizer
	ResourceOf func(schema.GroupVersionKind) (resource string, ok bool)

	// StoreHealthy says whether etcd answers; nil counts as healthy.
	StoreHealthy func(context.Context) error

	Logger *slog.Logger
}

// PortRange is a range of ports, both ends included.
type PortRange struct{ From, To int32 }

// Contains reports whether port lies in the range.
func (r PortRange) Contains(port int32) bool { return r.From <= port && port <= r.To }
