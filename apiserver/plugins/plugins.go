package plugins

import (
	"context"
	"crypto"
	"crypto/x509"
	"errors"
	"log/slog"

	authorizationv1 "k8s.io/api/authorization/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/client-go/dynamic"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/rest"

	"github.com/mini-k8s/mini/apiserver"
	"github.com/mini-k8s/mini/apiserver/admission"
	"github.com/mini-k8s/mini/apiserver/authn"
	"github.com/mini-k8s/mini/apiserver/authz"
	"github.com/mini-k8s/mini/apiserver/serviceaccount"
	"github.com/mini-k8s/mini/store"
)

// Config is what the plugins need to know.
type Config struct {
	ClientCAs *x509.CertPool // sign client certificates
	Logger    *slog.Logger
	// ServiceAccountKeys verify ServiceAccount tokens; the first one signs them.
	ServiceAccountKeys []crypto.Signer
	ClusterDomain      string
	// URL is where others reach the server: "https://192.0.2.1:6443". The OpenID documents point there.
	URL string
	// Informers makes the shared informers on the loopback client, for those who share them with controllers; nil makes
	// a set of their own. Run starts them.
	Informers func(kubernetes.Interface) informers.SharedInformerFactory
}

// New returns what apiserver.Config.Plugins calls. A factory that comes from Config.Informers is started by the plugins
// and stopped by whoever made it.
func New(config Config) func(*rest.Config) (*apiserver.Plugins, error) {
	return func(loopback *rest.Config) (*apiserver.Plugins, error) {
		if config.ClientCAs == nil || config.Logger == nil || config.ClusterDomain == "" {
			return nil, errors.New("plugins: ClientCAs, Logger and ClusterDomain must be set")
		}
		client, err := kubernetes.NewForConfig(loopback)
		if err != nil {
			return nil, err
		}
		dynamic, err := dynamic.NewForConfig(loopback)
		if err != nil {
			return nil, err
		}
		return build(config, client, dynamic)
	}
}

func build(config Config, client kubernetes.Interface, dynamic dynamic.Interface) (*apiserver.Plugins, error) {
	var factory informers.SharedInformerFactory
	if config.Informers != nil {
		factory = config.Informers(client)
	} else {
		factory = informers.NewSharedInformerFactory(client, 0)
	}
	authorizer, rbac, err := authz.New(factory, client)
	if err != nil {
		return nil, err
	}
	admit, err := admission.New(admission.Config{Client: client, Dynamic: dynamic, Informers: factory, Authorizer: authorizer, RBAC: rbac})
	if err != nil {
		return nil, err
	}
	keys, err := serviceaccount.NewKeys(config.ServiceAccountKeys)
	if err != nil {
		return nil, err
	}
	accounts := serviceaccount.Config{Keys: keys, Issuer: serviceaccount.Issuer(config.ClusterDomain), Client: client, Informers: factory}
	documents, err := serviceaccount.Discovery(accounts.Issuer, config.URL+serviceaccount.JWKSPath, keys)
	if err != nil {
		return nil, err
	}
	tokens := []authenticator.Token{serviceaccount.NewAuthenticator(accounts), authn.NewBootstrap(client)}
	who := serviceaccount.NewReviews([]string{accounts.Issuer}, tokens...)
	aggregation := authz.NewAggregation(client, factory, config.Logger)
	reviews := authz.NewReviews(authorizer, rbac)
	synced, ensured := make(chan struct{}), make(chan struct{})
	return &apiserver.Plugins{
		Authenticator: authn.New(authn.Config{
			ClientCAs: config.ClientCAs,
			Tokens:    tokens,
		}),
		Authorizer:  authorizer,
		Admission:   admit,
		Handlers:    documents,
		CreateToken: serviceaccount.NewTokens(accounts).Create,
		Review: map[string]func(context.Context, store.Object) (store.Object, error){
			"TokenReview":             review(who.Token),
			"SelfSubjectReview":       review(who.SelfSubject),
			"SubjectAccessReview":     review(reviews.SubjectAccess),
			"SelfSubjectAccessReview": review(reviews.SelfSubjectAccess),
			"SelfSubjectRulesReview":  review(reviews.SelfSubjectRules),
			"LocalSubjectAccessReview": review(func(ctx context.Context, r *authorizationv1.LocalSubjectAccessReview) (*authorizationv1.LocalSubjectAccessReview, error) {
				return reviews.LocalSubjectAccess(ctx, r.Namespace, r)
			}),
		},
		Bootstrap: func(ctx context.Context) error {
			err := authz.EnsurePolicy(ctx, client, authz.DefaultPolicy())
			if err == nil { // it is not called again
				close(ensured)
			}
			return err
		},
		Synced: synced,
		Run: func(ctx context.Context) error {
			defer admit.End()
			factory.Start(ctx.Done())
			for _, ok := range factory.WaitForCacheSync(ctx.Done()) {
				if !ok {
					return nil // ctx has ended
				}
			}
			close(synced)
			// Half of the default roles do not add up to what admin, edit and view have.
			select {
			case <-ensured:
			case <-ctx.Done():
			}
			err := aggregation.Run(ctx)
			if config.Informers == nil {
				factory.Shutdown()
			}
			return err
		},
	}, nil
}

// review gives a typed review the shape of a row's hook.
func review[T interface {
	store.Object
	metav1.Object
}](answer func(context.Context, T) (T, error)) func(context.Context, store.Object) (store.Object, error) {
	return func(ctx context.Context, obj store.Object) (store.Object, error) {
		out, err := answer(ctx, obj.(T))
		if err != nil {
			return nil, err
		}
		return out, nil
	}
}
