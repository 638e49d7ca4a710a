package quota

import (
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/api/resource"
)

// add returns a plus b, with the names of both.
func add(a, b corev1.ResourceList) corev1.ResourceList {
	sum := make(corev1.ResourceList, len(a)+len(b))
	for name, q := range a {
		sum[name] = q.DeepCopy()
	}
	for name, q := range b {
		total, ok := sum[name]
		if !ok {
			total = resource.Quantity{Format: q.Format}
		}
		total.Add(q)
		sum[name] = total
	}
	return sum
}

// increase returns by how much a is above b, name by name; what is not above is left out.
func increase(a, b corev1.ResourceList) corev1.ResourceList {
	more := corev1.ResourceList{}
	for name, q := range a {
		diff := q.DeepCopy()
		diff.Sub(b[name])
		if diff.Sign() > 0 {
			more[name] = diff
		}
	}
	return more
}

// mask keeps the names in list.
func mask(amounts corev1.ResourceList, list []corev1.ResourceName) corev1.ResourceList {
	kept := corev1.ResourceList{}
	for _, name := range list {
		if q, ok := amounts[name]; ok {
			kept[name] = q
		}
	}
	return kept
}

// Equal says whether both lists hold the same amounts; a name that is missing differs from zero.
func Equal(a, b corev1.ResourceList) bool {
	if len(a) != len(b) {
		return false
	}
	for name, q := range a {
		other, ok := b[name]
		if !ok || q.Cmp(other) != 0 {
			return false
		}
	}
	return true
}

// Below says whether some amount of a is less than that of the same name in b.
func Below(a, b corev1.ResourceList) bool {
	for name, q := range b {
		if have := a[name]; have.Cmp(q) < 0 {
			return true
		}
	}
	return false
}

func names(list corev1.ResourceList) []corev1.ResourceName {
	all := make([]corev1.ResourceName, 0, len(list))
	for name := range list {
		all = append(all, name)
	}
	slices.Sort(all)
	return all
}

// text shows amounts as error messages do: "cpu=1,pods=2".
func text(list corev1.ResourceList) string {
	parts := make([]string, 0, len(list))
	for _, name := range names(list) {
		q := list[name]
		parts = append(parts, string(name)+"="+q.String())
	}
	return strings.Join(parts, ",")
}

func textNames(list []corev1.ResourceName) string {
	parts := make([]string, 0, len(list))
	for _, name := range list {
		parts = append(parts, string(name))
	}
	slices.Sort(parts)
	return strings.Join(parts, ",")
}
