package serviceaccount

import (
	"context"
	"fmt"
	"slices"
	"time"

	authenticationv1 "k8s.io/api/authentication/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/util/uuid"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/serviceaccount"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
)

// Config is what tokens are made of.
type Config struct {
	Keys      *Keys
	Issuer    string   // https://kubernetes.default.svc.CLUSTERDOMAIN
	Audiences []string // of the API server; nil is the issuer alone
	Client    kubernetes.Interface
	Informers informers.SharedInformerFactory
}

// Issuer is the issuer of a cluster's tokens, and their audience at the API server.
func Issuer(clusterDomain string) string { return "https://kubernetes.default.svc." + clusterDomain }

// Tokens issues tokens.
type Tokens struct {
	config  Config
	objects *objects
}

// NewTokens makes an issuer.
func NewTokens(config Config) *Tokens {
	if len(config.Audiences) == 0 {
		config.Audiences = []string{config.Issuer}
	}
	return &Tokens{config: config, objects: newObjects(config.Client, config.Informers)}
}

// Create answers serviceaccounts/token: the request comes back with its defaults and status filled. Errors are API statuses.
func (t *Tokens) Create(ctx context.Context, namespace, name string, request *authenticationv1.TokenRequest) (*authenticationv1.TokenRequest, error) {
	account, err := t.objects.account(ctx, namespace, name, "")
	if err != nil {
		return nil, err
	}
	out := request.DeepCopy()
	spec := &out.Spec
	if spec.ExpirationSeconds == nil {
		seconds := int64(defaultSeconds)
		spec.ExpirationSeconds = &seconds
	}
	if len(spec.Audiences) == 0 {
		spec.Audiences = slices.Clone(t.config.Audiences)
	}
	if err := validate(name, spec); err != nil {
		return nil, err
	}
	bound, err := t.bind(ctx, account, spec.BoundObjectRef)
	if err != nil {
		return nil, err
	}
	now := time.Now()
	asked := now.Add(time.Duration(*spec.ExpirationSeconds) * time.Second)
	expires := asked
	if *spec.ExpirationSeconds == projectedSeconds && bound.Pod != nil && slices.Equal(spec.Audiences, t.config.Audiences) {
		bound.WarnAfter = asked.Unix()
		expires = now.Add(extendedLife)
	}
	out.Status.Token, err = t.config.Keys.sign(&claims{
		Issuer: t.config.Issuer, Subject: serviceaccount.MakeUsername(namespace, name), Audience: spec.Audiences,
		IssuedAt: now.Unix(), NotBefore: now.Unix(), Expiry: expires.Unix(), ID: string(uuid.NewUUID()),
		Kubernetes: bound,
	})
	if err != nil {
		return nil, fmt.Errorf("sign ServiceAccount token: %w", err)
	}
	out.Name, out.Namespace = name, namespace
	out.CreationTimestamp = metav1.NewTime(now)
	out.Status.ExpirationTimestamp = metav1.NewTime(asked)
	return out, nil
}

func validate(name string, spec *authenticationv1.TokenRequestSpec) error {
	var errs field.ErrorList
	path := field.NewPath("spec", "expirationSeconds")
	if *spec.ExpirationSeconds < minSeconds {
		errs = append(errs, field.Invalid(path, *spec.ExpirationSeconds, "may not specify a duration less than 10 minutes"))
	}
	if *spec.ExpirationSeconds > maxSeconds {
		errs = append(errs, field.Invalid(path, *spec.ExpirationSeconds, "may not specify a duration larger than 2^32 seconds"))
	}
	if len(errs) == 0 {
		return nil
	}
	return apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenRequest").GroupKind(), name, errs)
}

// bind looks at the object that the token is to be bound to.
func (t *Tokens) bind(ctx context.Context, account *corev1.ServiceAccount, ref *authenticationv1.BoundObjectReference) (kubernetesClaims, error) {
	c := kubernetesClaims{
		Namespace:      account.Namespace,
		ServiceAccount: reference{Name: account.Name, UID: account.UID},
	}
	if ref == nil {
		return c, nil
	}
	var uid types.UID
	var resource string
	switch (schema.GroupVersionKind{Version: ref.APIVersion, Kind: ref.Kind}) {
	case schema.GroupVersionKind{Version: "v1", Kind: "Pod"}:
		pod, err := t.objects.pod(ctx, account.Namespace, ref.Name, ref.UID)
		if err != nil {
			return c, err
		}
		if pod.Spec.ServiceAccountName != account.Name {
			return c, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token for serviceaccount %q to pod running with different serviceaccount name.", account.Name))
		}
		uid, resource = pod.UID, "pods"
		c.Pod = &reference{Name: pod.Name, UID: pod.UID}
		if pod.Spec.NodeName != "" {
			c.Node = &reference{Name: pod.Spec.NodeName}
			if node, err := t.objects.node(ctx, pod.Spec.NodeName, ""); err == nil {
				c.Node.UID = node.UID
			} else if !apierrors.IsNotFound(err) {
				return c, err
			}
		}
	case schema.GroupVersionKind{Version: "v1", Kind: "Secret"}:
		secret, err := t.objects.secret(ctx, account.Namespace, ref.Name)
		if err != nil {
			return c, err
		}
		uid, resource = secret.UID, "secrets"
		c.Secret = &reference{Name: secret.Name, UID: secret.UID}
	case schema.GroupVersionKind{Version: "v1", Kind: "Node"}:
		node, err := t.objects.node(ctx, ref.Name, ref.UID)
		if err != nil {
			return c, err
		}
		uid, resource = node.UID, "nodes"
		c.Node = &reference{Name: node.Name, UID: node.UID}
	default:
		return c, apierrors.NewBadRequest(fmt.Sprintf("cannot bind token to object of type %s", schema.FromAPIVersionAndKind(ref.APIVersion, ref.Kind).String()))
	}
	if ref.UID != "" && ref.UID != uid {
		return c, apierrors.NewConflict(schema.GroupResource{Resource: resource}, ref.Name,
			fmt.Errorf("the UID in the bound object reference (%s) does not match the UID in record. The object might have been deleted and then recreated", ref.UID))
	}
	return c, nil
}
