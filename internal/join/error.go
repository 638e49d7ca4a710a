package join

import (
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"syscall"

	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/mini-k8s/mini/internal/bootstrap"
)

// Error says why a node cannot join, in one line.
type Error struct {
	Message string
	// Temporary means that waiting can help; otherwise somebody must do something.
	Temporary bool
	Err       error // the cause; may be nil
}

func (e *Error) Error() string { return e.Message }
func (e *Error) Unwrap() error { return e.Err }

// Temporary says whether waiting can mend the error.
func Temporary(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Temporary
}

// ErrWrongCA is wrapped in the Error for a server that is not of the expected cluster.
var ErrWrongCA = errors.New("the server is not of the expected cluster")

// explain makes an Error of what went wrong while talking to the server.
func explain(server string, err error) error {
	var known *Error
	if errors.As(err, &known) {
		return known
	}
	var hostname x509.HostnameError
	var unknown x509.UnknownAuthorityError
	var invalid x509.CertificateInvalidError
	switch {
	case errors.Is(err, context.Canceled):
		return err
	case errors.Is(err, bootstrap.ErrUnknownToken), apierrors.IsUnauthorized(err):
		return &Error{Message: fmt.Sprintf("join %s: the server does not accept the token: it is wrong, was deleted, or has expired (make one with \"mini token create\" on a server)", server), Err: err}
	case errors.Is(err, bootstrap.ErrSignature):
		return &Error{Message: fmt.Sprintf("join %s: the server cannot prove that it knows the token's secret: the token is wrong, or this is another cluster's server", server), Err: err}
	case errors.As(err, &hostname):
		return &Error{Message: fmt.Sprintf("join %s: the server's certificate is not for this name (%v): use another one, or start the server with --tls-san", server, hostname), Err: err}
	case errors.As(err, &unknown):
		return &Error{Message: fmt.Sprintf("join %s: the server is not of the cluster that this node joined before: if it shall change, give a full join token", server), Err: fmt.Errorf("%w: %w", ErrWrongCA, err)}
	case errors.As(err, &invalid) && invalid.Reason == x509.Expired:
		return &Error{Message: fmt.Sprintf("join %s: the server's certificate is not valid at this time: check the clocks of both machines (%v)", server, invalid), Temporary: true, Err: err}
	case errors.Is(err, syscall.ECONNREFUSED):
		return &Error{Message: fmt.Sprintf("join %s: nothing answers there (connection refused): is the server running?", server), Temporary: true, Err: err}
	case errors.Is(err, syscall.EHOSTUNREACH):
		return &Error{Message: fmt.Sprintf("join %s: no machine answers at that address (no route to host): check the address, and that the server's machine is up", server), Temporary: true, Err: err}
	case errors.Is(err, syscall.ENETUNREACH):
		return &Error{Message: fmt.Sprintf("join %s: this machine has no route there (network is unreachable): check the address and this machine's routes", server), Temporary: true, Err: err}
	}
	var dns *net.DNSError
	if errors.As(err, &dns) {
		return &Error{Message: fmt.Sprintf("join %s: the name %s cannot be resolved: %s", server, dns.Name, dns.Err), Temporary: true, Err: err}
	}
	var timeout net.Error
	if errors.As(err, &timeout) && timeout.Timeout() || errors.Is(err, context.DeadlineExceeded) {
		return &Error{Message: fmt.Sprintf("join %s: nothing answers there in time: check the address, and that no firewall drops TCP to that port", server), Temporary: true, Err: err}
	}
	// Network errors, and a server that is still starting: 403 before its roles are written, 429, 5xx.
	return &Error{Message: fmt.Sprintf("join %s: %v", server, err), Temporary: true, Err: err}
}
