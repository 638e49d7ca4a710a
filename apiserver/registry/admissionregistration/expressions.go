package admissionregistration

import (
	"fmt"
	"regexp"
	"strings"
	"sync"

	celgo "github.com/google/cel-go/cel"
	admissionv1 "k8s.io/api/admissionregistration/v1"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apimachinery/pkg/util/validation"
	"k8s.io/apimachinery/pkg/util/validation/field"
	plugincel "k8s.io/apiserver/pkg/admission/plugin/cel"
	"k8s.io/apiserver/pkg/admission/plugin/policy/mutating/patch"
	apiservercel "k8s.io/apiserver/pkg/cel"
	"k8s.io/apiserver/pkg/cel/environment"

	"github.com/mini-k8s/mini/apiserver/registry"
)

const maxConditions = 64

// plainCompiler compiles expressions that have no variables of their policy; it has no state.
var plainCompiler = sync.OnceValue(func() plugincel.Compiler {
	return plugincel.NewCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion()))
})

// expression is one as the compiler takes it.
type expression struct {
	name, text string
	types      []*celgo.Type
}

func (e expression) GetName() string            { return e.name }
func (e expression) GetExpression() string      { return e.text }
func (e expression) ReturnTypes() []*celgo.Type { return e.types }

func condition(text string) expression {
	return expression{text: text, types: []*celgo.Type{celgo.BoolType}}
}

// check judges the expressions of one object.
type check struct {
	params bool             // the policy has parameters
	stored sets.Set[string] // expressions that were there before: they may use what new ones may not any more

	compiler  plugincel.Compiler
	variables *plugincel.CompositedCompiler // set when the policy can have variables
}

// newCheck makes a check; withVariables is for policies, whose expressions see the variables compiled before them.
func newCheck(params, withVariables bool, stored sets.Set[string]) (*check, error) {
	c := &check{params: params, stored: stored, compiler: plainCompiler()}
	if withVariables {
		var err error
		if c.variables, err = plugincel.NewCompositedCompiler(environment.MustBaseEnvSet(environment.DefaultCompatibilityVersion())); err != nil {
			return nil, fmt.Errorf("CEL: %w", err)
		}
		c.compiler = c.variables
	}
	return c, nil
}

func (c *check) mode(text string) environment.Type {
	if c.stored.Has(text) {
		return environment.StoredExpressions
	}
	return environment.NewExpressions
}

func (c *check) compile(compiler plugincel.Compiler, e plugincel.ExpressionAccessor, see plugincel.OptionalVariableDeclarations, path *field.Path) field.ErrorList {
	return celErrors(compiler.CompileCELExpression(e, see, c.mode(e.GetExpression())).Error, e.GetExpression(), path)
}

func celErrors(err *apiservercel.Error, text string, path *field.Path) field.ErrorList {
	switch {
	case err == nil:
		return nil
	case err.Type == apiservercel.ErrorTypeRequired:
		return field.ErrorList{field.Required(path, err.Detail)}
	case err.Type == apiservercel.ErrorTypeInvalid:
		return field.ErrorList{field.Invalid(path, text, err.Detail)}
	}
	return field.ErrorList{field.InternalError(path, err)}
}

func (c *check) matchConditions(conditions []admissionv1.MatchCondition, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if len(conditions) > maxConditions {
		errs = append(errs, field.TooMany(path, len(conditions), maxConditions))
	}
	names := sets.New[string]()
	for i, m := range conditions {
		at := path.Index(i)
		if text := strings.TrimSpace(m.Expression); text == "" {
			errs = append(errs, field.Required(at.Child("expression"), ""))
		} else {
			see := plugincel.OptionalVariableDeclarations{HasParams: c.params, HasAuthorizer: true}
			errs = append(errs, c.compile(plainCompiler(), condition(text), see, at.Child("expression"))...)
		}
		if m.Name == "" {
			errs = append(errs, field.Required(at.Child("name"), ""))
			continue
		}
		errs = append(errs, registry.Invalid(at.Child("name"), m.Name, validation.IsQualifiedName(m.Name))...)
		if names.Has(m.Name) {
			errs = append(errs, field.Duplicate(at.Child("name"), m.Name))
		}
		names.Insert(m.Name)
	}
	return errs
}

var (
	identifier = regexp.MustCompile(`^[_a-zA-Z][_a-zA-Z0-9]*$`)
	reserved   = sets.New("true", "false", "null", "in", "as", "break", "const", "continue", "else", "for", "function", "if", "import", "let",
		"loop", "package", "namespace", "return", "var", "void", "while")
)

func (c *check) variable(v *admissionv1.Variable, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Name) == "" {
		errs = append(errs, field.Required(path.Child("name"), "name is not specified"))
	} else if !identifier.MatchString(v.Name) || reserved.Has(v.Name) {
		errs = append(errs, field.Invalid(path.Child("name"), v.Name, "must be a valid CEL identifier"))
	}
	if strings.TrimSpace(v.Expression) == "" {
		return append(errs, field.Required(path.Child("expression"), "expression is not specified"))
	}
	e := expression{v.Name, v.Expression, []*celgo.Type{celgo.AnyType, celgo.DynType}}
	see := plugincel.OptionalVariableDeclarations{HasParams: c.params, HasAuthorizer: true}
	result := c.variables.CompileAndStoreVariable(e, see, c.mode(v.Expression))
	return append(errs, celErrors(result.Error, v.Expression, path.Child("expression"))...)
}

func (c *check) validation(v *admissionv1.Validation, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if strings.TrimSpace(v.Expression) == "" {
		errs = append(errs, field.Required(path.Child("expression"), "expression is not specified"))
	} else {
		see := plugincel.OptionalVariableDeclarations{HasParams: c.params, HasAuthorizer: true}
		errs = append(errs, c.compile(c.compiler, condition(v.Expression), see, path.Child("expression"))...)
	}
	if at := path.Child("messageExpression"); v.MessageExpression != "" && strings.TrimSpace(v.MessageExpression) == "" {
		errs = append(errs, field.Invalid(at, v.MessageExpression, "must be non-empty if specified"))
	} else if v.MessageExpression != "" {
		e := expression{text: v.MessageExpression, types: []*celgo.Type{celgo.StringType}}
		errs = append(errs, c.compile(c.compiler, e, plugincel.OptionalVariableDeclarations{HasParams: c.params}, at)...)
	}
	if message := strings.TrimSpace(v.Message); v.Message != "" && message == "" {
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must be non-empty if specified"))
	} else if strings.ContainsAny(message, "\n\r") {
		errs = append(errs, field.Invalid(path.Child("message"), v.Message, "must not contain line breaks"))
	}
	return append(errs, optional(v.Reason, reasons, path.Child("reason"))...)
}

func (c *check) auditAnnotation(policy string, a *admissionv1.AuditAnnotation, path *field.Path) field.ErrorList {
	var errs field.ErrorList
	if policy == "" {
		errs = append(errs, field.Invalid(path.Child("key"), a.Key, "requires metadata.name be non-empty"))
	} else {
		key := policy + "/" + a.Key
		errs = append(errs, registry.Invalid(path.Child("key"), key, validation.IsQualifiedName(key))...)
	}
	at := path.Child("valueExpression")
	switch text := strings.TrimSpace(a.ValueExpression); {
	case text == "":
		errs = append(errs, field.Required(at, "valueExpression is not specified"))
	case len(text) > maxAnnotationBytes:
		errs = append(errs, field.Required(at, fmt.Sprintf("must not exceed %d bytes in length", maxAnnotationBytes)))
	default:
		e := expression{text: text, types: []*celgo.Type{celgo.StringType, celgo.NullType}}
		errs = append(errs, c.compile(c.compiler, e, plugincel.OptionalVariableDeclarations{HasParams: c.params, HasAuthorizer: true}, at)...)
	}
	return errs
}

func (c *check) mutation(m *admissionv1.Mutation, path *field.Path) field.ErrorList {
	see := plugincel.OptionalVariableDeclarations{HasParams: c.params, HasAuthorizer: true, HasPatchTypes: true}
	expression := func(text, name string, accessor func(string) plugincel.ExpressionAccessor) field.ErrorList {
		at := path.Child(name, "expression")
		if text = strings.TrimSpace(text); text == "" {
			return field.ErrorList{field.Required(at, "")}
		}
		return c.compile(c.compiler, accessor(text), see, at)
	}
	var errs field.ErrorList
	switch m.PatchType {
	case admissionv1.PatchTypeJSONPatch:
		if m.JSONPatch == nil {
			errs = append(errs, field.Required(path.Child("jsonPatch"), "must be specified when patchType is JSONPatch"))
		} else {
			errs = append(errs, expression(m.JSONPatch.Expression, "jsonPatch", func(text string) plugincel.ExpressionAccessor {
				return &patch.JSONPatchCondition{Expression: text}
			})...)
		}
		if m.ApplyConfiguration != nil {
			errs = append(errs, field.Invalid(path.Child("applyConfiguration"), "{applyConfiguration}", "must not be specified when patchType is JSONPatch"))
		}
	case admissionv1.PatchTypeApplyConfiguration:
		if m.ApplyConfiguration == nil {
			errs = append(errs, field.Required(path.Child("applyConfiguration"), "must be specified when patchType is ApplyConfiguration"))
		} else {
			errs = append(errs, expression(m.ApplyConfiguration.Expression, "applyConfiguration", func(text string) plugincel.ExpressionAccessor {
				return &patch.ApplyConfigurationCondition{Expression: text}
			})...)
		}
		if m.JSONPatch != nil {
			errs = append(errs, field.Invalid(path.Child("jsonPatch"), "{jsonPatch}", "must not be specified when patchType is ApplyConfiguration"))
		}
	case "":
		errs = append(errs, field.Required(path.Child("patchType"), ""))
	default:
		errs = append(errs, field.NotSupported(path.Child("patchType"), m.PatchType,
			[]admissionv1.PatchType{admissionv1.PatchTypeApplyConfiguration, admissionv1.PatchTypeJSONPatch}))
	}
	return errs
}
