package flowcontrol

import (
	"fmt"

	flowcontrolv1 "k8s.io/api/flowcontrol/v1"
	apiequality "k8s.io/apimachinery/pkg/api/equality"
	apivalidation "k8s.io/apimachinery/pkg/api/validation"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/util/validation/field"
	"k8s.io/apiserver/pkg/apis/flowcontrol/bootstrap"
	"k8s.io/apiserver/pkg/util/shufflesharding"
	"k8s.io/utils/ptr"

	"github.com/mini-k8s/mini/apiserver/registry"
)

const (
	defaultShares      = 30
	defaultHandSize    = 8
	defaultQueues      = 64
	defaultQueueLength = 50
	maxQueues          = 10_000_000
	// zeroShares is an annotation of older versions that this one must not carry.
	zeroShares = "flowcontrol.k8s.io/v1beta3-preserve-zero-concurrency-shares"
)

// PriorityLevelConfiguration is the row of prioritylevelconfigurations.
func PriorityLevelConfiguration() registry.Resource {
	type level = flowcontrolv1.PriorityLevelConfiguration
	return registry.Resource{
		GVK: flowcontrolv1.SchemeGroupVersion.WithKind("PriorityLevelConfiguration"), Name: "prioritylevelconfigurations", Singular: "prioritylevelconfiguration",
		Default: registry.Defaulter(defaultLevel),
		Strategy: registry.OwnStatus(registry.Counted(registry.Strategy{
			Validate:            registry.Validate(validateLevel),
			ValidateUpdate:      registry.ValidateUpdate(func(l, _ *level) field.ErrorList { return validateLevel(l) }),
			UnconditionalUpdate: true,
		}, func(l *level) any { return l.Spec }), func(l *level) *flowcontrolv1.PriorityLevelConfigurationStatus { return &l.Status }),
		Status: registry.KeepMeta(registry.StatusView(func(l *level) *flowcontrolv1.PriorityLevelConfigurationSpec { return &l.Spec },
			func(l, _ *level) field.ErrorList { return validateConditions(levelConditionTypes(l)) })),
		Table: registry.Table{
			Columns: []metav1.TableColumnDefinition{
				registry.NameColumn(),
				registry.Column("Type", "Whether requests are limited"),
				registry.Column("NominalConcurrencyShares", "The level's share of all seats"),
				registry.Column("Queues", "How many queues there are"),
				registry.Column("HandSize", "How many queues one flow may use"),
				registry.Column("QueueLengthLimit", "How many requests wait in a queue"),
				registry.AgeColumn(),
			},
			Cells: registry.Cells(func(l *level) []any {
				var shares, queues, hand, length any = registry.None, registry.None, registry.None, registry.None
				if limited := l.Spec.Limited; limited != nil {
					shares = ptr.Deref(limited.NominalConcurrencyShares, 0)
					if q := limited.LimitResponse.Queuing; q != nil {
						queues, hand, length = q.Queues, q.HandSize, q.QueueLengthLimit
					}
				}
				return []any{l.Name, string(l.Spec.Type), shares, queues, hand, length, registry.Age(l.CreationTimestamp)}
			}),
		},
	}
}

func levelConditionTypes(l *flowcontrolv1.PriorityLevelConfiguration) []string {
	types := make([]string, len(l.Status.Conditions))
	for i, c := range l.Status.Conditions {
		types[i] = string(c.Type)
	}
	return types
}

func defaultLevel(l *flowcontrolv1.PriorityLevelConfiguration) {
	number := func(at **int32, value int32) {
		if *at == nil {
			*at = &value
		}
	}
	if e := l.Spec.Exempt; e != nil {
		number(&e.NominalConcurrencyShares, 0)
		number(&e.LendablePercent, 0)
	}
	limited := l.Spec.Limited
	if limited == nil {
		return
	}
	number(&limited.NominalConcurrencyShares, defaultShares)
	number(&limited.LendablePercent, 0)
	if q := limited.LimitResponse.Queuing; q != nil {
		for _, f := range []struct {
			at    *int32
			value int32
		}{{&q.HandSize, defaultHandSize}, {&q.Queues, defaultQueues}, {&q.QueueLengthLimit, defaultQueueLength}} {
			if *f.at == 0 {
				*f.at = f.value
			}
		}
	}
}

func validateLevel(l *flowcontrolv1.PriorityLevelConfiguration) field.ErrorList {
	errs := registry.ValidateMeta(l, false, apivalidation.NameIsDNSSubdomain)
	if _, ok := l.Annotations[zeroShares]; ok {
		errs = append(errs, field.Forbidden(field.NewPath("metadata", "annotations"), fmt.Sprintf("annotation '%s' is forbidden", zeroShares)))
	}
	path := field.NewPath("spec")
	errs = append(errs, validateLevelSpec(l, path)...)
	for _, fixed := range bootstrap.MandatoryPriorityLevelConfigurations {
		if fixed.Name != l.Name {
			continue
		}
		have, which := l.Spec, ""
		if l.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt {
			have.Exempt, which = fixed.Spec.Exempt, " except the 'spec.exempt' field"
		}
		if !apiequality.Semantic.DeepEqual(have, fixed.Spec) {
			errs = append(errs, field.Invalid(path, l.Spec, fmt.Sprintf("spec of '%s'%s must equal the fixed value", l.Name, which)))
		}
	}
	return append(errs, validateConditions(levelConditionTypes(l))...)
}

func validateLevelSpec(l *flowcontrolv1.PriorityLevelConfiguration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	spec := &l.Spec
	if (l.Name == flowcontrolv1.PriorityLevelConfigurationNameExempt) != (spec.Type == flowcontrolv1.PriorityLevelEnablementExempt) {
		errs = append(errs, field.Invalid(path.Child("type"), spec.Type, "must be 'Exempt' if and only if `name` is 'exempt'"))
	}
	switch spec.Type {
	case flowcontrolv1.PriorityLevelEnablementExempt:
		if spec.Limited != nil {
			errs = append(errs, field.Forbidden(path.Child("limited"), "must be nil if the type is not Limited"))
		}
		if e := spec.Exempt; e != nil {
			errs = append(errs, shares(e.NominalConcurrencyShares, path.Child("exempt"))...)
			errs = append(errs, percent(e.LendablePercent, path.Child("exempt", "lendablePercent"))...)
		}
	case flowcontrolv1.PriorityLevelEnablementLimited:
		if spec.Exempt != nil {
			errs = append(errs, field.Forbidden(path.Child("exempt"), "must be nil if the type is Limited"))
		}
		if spec.Limited == nil {
			return append(errs, field.Required(path.Child("limited"), "must not be empty when type is Limited"))
		}
		errs = append(errs, validateLimited(spec.Limited, path.Child("limited"))...)
	case "":
		errs = append(errs, field.Required(path.Child("type"), ""))
	default:
		errs = append(errs, field.NotSupported(path.Child("type"), spec.Type,
			[]flowcontrolv1.PriorityLevelEnablement{flowcontrolv1.PriorityLevelEnablementExempt, flowcontrolv1.PriorityLevelEnablementLimited}))
	}
	return errs
}

func shares(n *int32, path *field.Path) field.ErrorList {
	if n != nil && *n < 0 {
		return field.ErrorList{field.Invalid(path.Child("nominalConcurrencyShares"), *n, "must be a non-negative integer")}
	}
	return nil
}

func percent(n *int32, path *field.Path) field.ErrorList {
	if n != nil && (*n < 0 || *n > 100) {
		return field.ErrorList{field.Invalid(path, *n, "must be between 0 and 100, inclusive")}
	}
	return nil
}

func validateLimited(l *flowcontrolv1.LimitedPriorityLevelConfiguration, path *field.Path) field.ErrorList {
	errs := shares(l.NominalConcurrencyShares, path)
	response, at := &l.LimitResponse, path.Child("limitResponse")
	switch response.Type {
	case flowcontrolv1.LimitResponseTypeReject:
		if response.Queuing != nil {
			errs = append(errs, field.Forbidden(at.Child("queuing"), "must be nil if limited.limitResponse.type is not Limited"))
		}
	case flowcontrolv1.LimitResponseTypeQueue:
		if response.Queuing == nil {
			errs = append(errs, field.Required(at.Child("queuing"), "must not be empty if limited.limitResponse.type is Limited"))
		} else {
			errs = append(errs, validateQueuing(response.Queuing, at.Child("queuing"))...)
		}
	case "":
		errs = append(errs, field.Required(at.Child("type"), ""))
	default:
		errs = append(errs, field.NotSupported(at.Child("type"), response.Type,
			[]flowcontrolv1.LimitResponseType{flowcontrolv1.LimitResponseTypeQueue, flowcontrolv1.LimitResponseTypeReject}))
	}
	errs = append(errs, percent(l.LendablePercent, path.Child("lendablePercent"))...)
	if b := l.BorrowingLimitPercent; b != nil && *b < 0 {
		errs = append(errs, field.Invalid(path.Child("borrowingLimitPercent"), *b, "if specified, must be a non-negative integer"))
	}
	return errs
}

func validateQueuing(q *flowcontrolv1.QueuingConfiguration, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if q.QueueLengthLimit <= 0 {
		errs = append(errs, field.Invalid(path.Child("queueLengthLimit"), q.QueueLengthLimit, "must be positive"))
	}
	if q.Queues <= 0 {
		errs = append(errs, field.Invalid(path.Child("queues"), q.Queues, "must be positive"))
	} else if q.Queues > maxQueues {
		errs = append(errs, field.Invalid(path.Child("queues"), q.Queues, fmt.Sprintf("must not be greater than %d", maxQueues)))
	}
	at := path.Child("handSize")
	if q.HandSize <= 0 {
		return append(errs, field.Invalid(at, q.HandSize, "must be positive"))
	}
	if q.HandSize > q.Queues {
		return append(errs, field.Invalid(at, q.HandSize, fmt.Sprintf("should not be greater than queues (%d)", q.Queues)))
	}
	if shufflesharding.RequiredEntropyBits(int(q.Queues), int(q.HandSize)) > shufflesharding.MaxHashBits {
		errs = append(errs, field.Invalid(at, q.HandSize, fmt.Sprintf(
			"required entropy bits of deckSize %d and handSize %d should not be greater than %d", q.Queues, q.HandSize, shufflesharding.MaxHashBits)))
	}
	return errs
}
