package negotiate

import (
	"net/http"
	"sort"
	"strconv"
	"strings"
)

// Media is how an answer is written down.
type Media uint8

// The media.
const (
	JSON Media = iota
	YAML
	Proto
	CBOR
)

// Format is what the client gets.
type Format struct {
	Media  Media
	As     string // "" for the object itself, else a kind: Table, PartialObjectMetadata, PartialObjectMetadataList, …
	Group  string // of As
	Ver    string // of As
	Pretty bool   // indented JSON
}

// Accepted lists, for messages, what whole objects can be had in.
const Accepted = "application/json, application/yaml, application/vnd.kubernetes.protobuf, application/cbor"

// ContentType is the media type of an answer that is not a watch.
func (f Format) ContentType() string {
	switch f.Media {
	case YAML:
		return "application/yaml"
	case Proto:
		return "application/vnd.kubernetes.protobuf" + f.parameters()
	case CBOR:
		return "application/cbor"
	}
	return "application/json" + f.parameters()
}

// parameters are said back for aggregated discovery, whose clients look for them.
func (f Format) parameters() string {
	if f.As != "APIGroupDiscoveryList" {
		return ""
	}
	return ";g=" + f.Group + ";v=" + f.Ver + ";as=" + f.As
}

// StreamType is the media type of a watch. Who accepts CBOR is sent a sequence of it, which has its own name.
func (f Format) StreamType() string {
	switch f.Media {
	case Proto:
		return "application/vnd.kubernetes.protobuf;stream=watch"
	case CBOR:
		return "application/cbor-seq"
	}
	return "application/json"
}

// Pick returns the first format of the request's Accept header that serves says yes to; false is a 406.
func Pick(r *http.Request, serves func(Format) bool) (Format, bool) {
	headers := r.Header["Accept"]
	pretty := wantsPretty(r)
	if len(headers) == 1 { // what nearly every client sends
		switch headers[0] {
		case "application/json":
			f := Format{Pretty: pretty}
			return f, serves(f)
		case "application/vnd.kubernetes.protobuf":
			f := Format{Media: Proto}
			return f, serves(f)
		}
	}
	if len(headers) == 0 || len(headers) == 1 && headers[0] == "" {
		f := Format{Pretty: pretty}
		return f, serves(f)
	}
	clauses := parse(strings.Join(headers, ","))
	for _, c := range clauses {
		f := c.format
		f.Pretty = pretty && f.Media == JSON
		if serves(f) {
			return f, true
		}
	}
	return Format{}, false
}

type clause struct {
	format  Format
	quality float64
}

func parse(header string) []clause {
	clauses := make([]clause, 0, 4)
	sorted := true
	for part := range strings.SplitSeq(header, ",") {
		media, params, _ := strings.Cut(part, ";")
		c := clause{quality: 1}
		known := true
		switch strings.ToLower(strings.TrimSpace(media)) {
		case "application/json", "*/*", "application/*":
		case "application/yaml":
			c.format.Media = YAML
		case "application/vnd.kubernetes.protobuf":
			c.format.Media = Proto
		case "application/cbor":
			c.format.Media = CBOR
		default:
			known = false
		}
		for params != "" {
			var param string
			param, params, _ = strings.Cut(params, ";")
			key, value, _ := strings.Cut(strings.TrimSpace(param), "=")
			value = strings.Trim(value, `"`)
			switch key {
			case "as":
				c.format.As = value
			case "g":
				c.format.Group = value
			case "v":
				c.format.Ver = value
			case "q":
				if q, err := strconv.ParseFloat(value, 64); err == nil {
					c.quality = q
				}
			case "stream":
				known = known && value == "watch"
			}
		}
		if !known || c.quality <= 0 {
			continue
		}
		sorted = sorted && (len(clauses) == 0 || clauses[len(clauses)-1].quality >= c.quality)
		clauses = append(clauses, c)
	}
	if !sorted {
		sort.SliceStable(clauses, func(i, j int) bool { return clauses[i].quality > clauses[j].quality })
	}
	return clauses
}

// wantsPretty follows the query, and without it indents for people: curl, wget and browsers.
func wantsPretty(r *http.Request) bool {
	if q := r.URL.RawQuery; strings.Contains(q, "pretty") {
		if v, ok := r.URL.Query()["pretty"]; ok && len(v) > 0 {
			return v[0] != "0" && !strings.EqualFold(v[0], "false")
		}
	}
	agent := r.UserAgent()
	return strings.HasPrefix(agent, "curl") || strings.HasPrefix(agent, "Wget") || strings.HasPrefix(agent, "Mozilla/5.0")
}

// Gzip says whether the client takes a gzip body.
func Gzip(r *http.Request) bool {
	for _, h := range r.Header["Accept-Encoding"] {
		for part := range strings.SplitSeq(h, ",") {
			name, params, _ := strings.Cut(strings.TrimSpace(part), ";")
			if name == "gzip" && strings.ReplaceAll(params, " ", "") != "q=0" {
				return true
			}
		}
	}
	return false
}
