package serviceaccount

import (
	"context"
	"slices"

	authenticationv1 "k8s.io/api/authentication/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/authentication/authenticator"
	"k8s.io/apiserver/pkg/authentication/user"

	"github.com/mini-k8s/mini/apiserver/request"
)

// Reviews answers the kinds of authentication.k8s.io.
type Reviews struct {
	tokens    []authenticator.Token
	audiences []string
}

// NewReviews asks the authenticators in order; audiences are the API server's.
func NewReviews(audiences []string, tokens ...authenticator.Token) *Reviews {
	return &Reviews{tokens: tokens, audiences: audiences}
}

// Token says whose token it is. The review given is changed and returned.
func (r *Reviews) Token(ctx context.Context, review *authenticationv1.TokenReview) (*authenticationv1.TokenReview, error) {
	if review.Spec.Token == "" {
		return nil, apierrors.NewInvalid(authenticationv1.SchemeGroupVersion.WithKind("TokenReview").GroupKind(), "",
			field.ErrorList{field.Required(field.NewPath("spec", "token"), "")})
	}
	wanted := review.Spec.Audiences
	if len(wanted) == 0 {
		wanted = r.audiences
	}
	review.Status = authenticationv1.TokenReviewStatus{}
	ctx = authenticator.WithAudiences(ctx, wanted)
	for _, one := range r.tokens {
		response, ok, err := one.AuthenticateToken(ctx, review.Spec.Token)
		if err != nil {
			review.Status.Error = err.Error()
			continue
		}
		if !ok {
			continue
		}
		audiences := response.Audiences
		if len(audiences) == 0 { // of an authenticator that knows none: good for the API server alone
			if audiences = authenticator.Audiences(wanted).Intersect(r.audiences); len(audiences) == 0 {
				review.Status.Error = "the token is good, but not for the audiences asked for"
				continue
			}
		}
		review.Status = authenticationv1.TokenReviewStatus{
			Authenticated: true, User: userInfo(authenticatedGroup(response.User)), Audiences: audiences,
		}
		return review, nil
	}
	return review, nil
}

// SelfSubject says who asks.
func (r *Reviews) SelfSubject(ctx context.Context, review *authenticationv1.SelfSubjectReview) (*authenticationv1.SelfSubjectReview, error) {
	u := request.UserFrom(ctx)
	if u == nil {
		return nil, apierrors.NewBadRequest("no user present on request")
	}
	review.Status.UserInfo = userInfo(u)
	return review, nil
}

func authenticatedGroup(u user.Info) user.Info {
	if slices.Contains(u.GetGroups(), user.AllAuthenticated) {
		return u
	}
	return &user.DefaultInfo{Name: u.GetName(), UID: u.GetUID(), Extra: u.GetExtra(), Groups: append(slices.Clone(u.GetGroups()), user.AllAuthenticated)}
}

func userInfo(u user.Info) authenticationv1.UserInfo {
	info := authenticationv1.UserInfo{Username: u.GetName(), UID: u.GetUID(), Groups: u.GetGroups()}
	if extra := u.GetExtra(); len(extra) > 0 {
		info.Extra = make(map[string]authenticationv1.ExtraValue, len(extra))
		for k, v := range extra {
			info.Extra[k] = v
		}
	}
	return info
}
