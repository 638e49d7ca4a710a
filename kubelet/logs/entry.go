// SPDX-License-Identifier: Apache-2.0

package logs

import (
	"bytes"
	"errors"
	"time"
)

// Entry is one entry of a log.
type Entry struct {
	Time    time.Time
	Stdout  bool   // else stderr
	Partial bool   // the line goes on in the next entry
	Content []byte // with its newline, unless Partial; points into the parsed line
}

var errMalformed = errors.New("malformed log entry")

// Parse reads one entry from a line, with or without its newline.
func Parse(line []byte) (Entry, error) {
	var e Entry
	stamp, rest, ok := bytes.Cut(line, []byte{' '})
	if !ok {
		return e, errMalformed
	}
	t, err := time.Parse(time.RFC3339Nano, string(stamp))
	if err != nil {
		return e, errMalformed
	}
	stream, rest, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		return e, errMalformed
	}
	switch string(stream) {
	case "stdout":
		e.Stdout = true
	case "stderr":
	default:
		return e, errMalformed
	}
	tags, content, ok := bytes.Cut(rest, []byte{' '})
	if !ok {
		// An empty line may have lost its trailing blank.
		tags, content = bytes.TrimSuffix(rest, []byte{'\n'}), nil
		if len(rest) != len(tags) {
			content = []byte{'\n'}
		}
	}
	first, _, _ := bytes.Cut(tags, []byte{':'})
	switch string(first) {
	case "F":
	case "P":
		e.Partial = true
		content = bytes.TrimSuffix(content, []byte{'\n'})
	default:
		return e, errMalformed
	}
	e.Time, e.Content = t, content
	return e, nil
}
