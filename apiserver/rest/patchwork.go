package rest

import (
	"strconv"
	"strings"

	jsonpatch "gopkg.in/evanphx/json-patch.v4"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/mini-k8s/mini/apiserver/codec"
)

// maxPatchWork bounds what applying a patch may cost, some ten nanoseconds each. The libraries that apply patches
// read what lies below a level again for each level, move the rest of an array for each element, and look for each element
// of one list in the other: a few megabytes could keep a processor busy for hours.
const maxPatchWork = 1 << 28

func checkWork(work int) error {
	if work > maxPatchWork {
		return apierrors.NewRequestEntityTooLargeError("applying the patch to this object would take too long")
	}
	return nil
}

// jsonPatchWork is what a JSON patch costs, which body holds, on an object.
func jsonPatchWork(patch jsonpatch.Patch, body int, original []byte) int {
	depth, longest, elements := codec.Measure(original)
	size := len(original) + body
	tests, shifts, copied := 0, 0, int64(0)
	for _, op := range patch {
		path, _ := op.Path()
		from, _ := op.From()
		level := strings.Count(path, "/")
		below, text := 0, 0
		if v := op["value"]; v != nil {
			more := 0
			below, text, more = codec.Measure(*v)
			elements += more
		}
		switch op.Kind() {
		case "test":
			tests++
			longest = max(longest, text)
		case "copy", "move": // of something that reaches as deep as anything does
			below = max(0, depth-strings.Count(from, "/"))
			if op.Kind() == "copy" {
				copied = jsonpatch.AccumulatedCopySizeLimit
			} else if isIndex(from) {
				shifts++
			}
		}
		if isIndex(path) {
			shifts++
		}
		depth = max(depth, level+below)
		longest = max(longest, text)
	}
	size += int(copied)
	elements += int(copied) / len("0,")
	return depth*size + tests*longest + shifts*elements/2
}

// isIndex says whether a JSON pointer may name a place in the middle of an array.
func isIndex(pointer string) bool {
	_, err := strconv.Atoi(pointer[strings.LastIndexByte(pointer, '/')+1:])
	return err == nil
}

// strategicWork is what merging the lists of a strategic patch costs.
func strategicWork(doc, patch map[string]any) int {
	longest := 0
	eachList(doc, func(n int) { longest = max(longest, n) })
	work := 0
	eachList(patch, func(n int) { work += n * (n + longest) })
	return work
}

func eachList(v any, visit func(length int)) {
	switch v := v.(type) {
	case map[string]any:
		for _, e := range v {
			eachList(e, visit)
		}
	case []any:
		visit(len(v))
		for _, e := range v {
			eachList(e, visit)
		}
	}
}
