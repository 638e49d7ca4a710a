package serviceaccount

import (
	"encoding/json"
	"errors"
	"time"

	"k8s.io/apimachinery/pkg/types"
)

// Lifetimes of tokens, as upstream has them.
const (
	defaultSeconds = 3600
	minSeconds     = 10 * 60
	maxSeconds     = 1 << 32
	// projectedSeconds is what kube-api-access volumes ask for. The odd number tells it from what people ask for: clients
	// that never read their token again get extendedLife, and are to be warned after what was asked for.
	projectedSeconds = 3607
	extendedLife     = 365 * 24 * time.Hour
	// deletedLeeway is how long a token outlives its object's deletion timestamp, for clocks that differ.
	deletedLeeway = time.Minute
)

// claims are everything in a token. Times are in seconds since 1970.
type claims struct {
	Audience   audiences        `json:"aud"`
	Expiry     int64            `json:"exp"`
	IssuedAt   int64            `json:"iat,omitempty"`
	Issuer     string           `json:"iss"`
	ID         string           `json:"jti,omitempty"`
	Kubernetes kubernetesClaims `json:"kubernetes.io"`
	NotBefore  int64            `json:"nbf,omitempty"`
	Subject    string           `json:"sub"`
}

// audiences are written as a list, as upstream does, and read also as a single string, as RFC 7519 allows.
type audiences []string

func (a *audiences) UnmarshalJSON(data []byte) error {
	var one string
	if json.Unmarshal(data, &one) == nil {
		*a = audiences{one}
		return nil
	}
	return json.Unmarshal(data, (*[]string)(a))
}

// kubernetesClaims are in the order of upstream's documents.
type kubernetesClaims struct {
	Namespace      string     `json:"namespace,omitempty"`
	Node           *reference `json:"node,omitempty"`
	Pod            *reference `json:"pod,omitempty"`
	Secret         *reference `json:"secret,omitempty"`
	ServiceAccount reference  `json:"serviceaccount"`
	WarnAfter      int64      `json:"warnafter,omitempty"`
}

type reference struct {
	Name string    `json:"name"`
	UID  types.UID `json:"uid,omitempty"`
}

// issuer reads the issuer of a token without believing it: tokens of others are none of our business.
func issuer(token string) (string, error) {
	payload, ok := payloadOf(token)
	if !ok {
		return "", errors.New("not a JWT")
	}
	var c struct {
		Issuer string `json:"iss"`
	}
	if err := json.Unmarshal(payload, &c); err != nil {
		return "", err
	}
	return c.Issuer, nil
}
