package codec

import (
	"bytes"
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// MaxDepth bounds how deep arrays, objects and protobuf messages may lie in each other: what walks them afterwards takes
// stack for each level, and some of it reads everything below a level again.
const MaxDepth = 512

var errTooDeep = fmt.Errorf("exceeded max depth of %d", MaxDepth)

// CheckDepth refuses JSON that is nested deeper than MaxDepth. It need not be valid JSON.
func CheckDepth(data []byte) error {
	if bytes.Count(data, []byte{'{'})+bytes.Count(data, []byte{'['}) <= MaxDepth {
		return nil
	}
	if depth, _, _ := Measure(data); depth > MaxDepth {
		return errTooDeep
	}
	return nil
}

// Measure returns how deep arrays and objects lie in each other, how long the longest string is, and how many elements they
// have together at most.
func Measure(json []byte) (depth, longest, elements int) {
	elements = 1
	level := 0
	for i := 0; i < len(json); i++ {
		switch json[i] {
		case '{', '[':
			level++
			depth = max(depth, level)
		case '}', ']':
			level--
		case ',':
			elements++
		case '"':
			start := i
			for i++; i < len(json) && json[i] != '"'; i++ {
				if json[i] == '\\' {
					i++
				}
			}
			longest = max(longest, i-start-1)
		}
	}
	return depth, longest, elements
}

// checkMessage does the same for a protobuf message. Only schemas of custom resources can contain themselves.
func checkMessage(message []byte, gvk schema.GroupVersionKind) error {
	if gvk.Group == apiextensionsv1.GroupName && deeper(message, MaxDepth) {
		return errTooDeep
	}
	return nil
}

// deeper says whether messages may lie deeper in each other than that. Texts that look like messages are taken for such.
func deeper(message []byte, levels int) bool {
	if levels == 0 {
		return true
	}
	for len(message) > 0 {
		num, typ, n := protowire.ConsumeTag(message)
		if n < 0 {
			return false
		}
		message = message[n:]
		if typ == protowire.BytesType {
			v, size := protowire.ConsumeBytes(message)
			if len(v) > 0 && deeper(v, levels-1) {
				return true
			}
			n = size
		} else {
			n = protowire.ConsumeFieldValue(num, typ, message)
		}
		if n < 0 {
			return false
		}
		message = message[n:]
	}
	return false
}
