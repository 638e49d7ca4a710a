// Package fieldschema knows which fields, lists and maps of the built-in kinds belong together when writers are told apart:
// the schemas by which server-side apply merges and metadata.managedFields are kept (structured-merge-diff).
//
// client-go carries the same schemas as one text of 430 kB, whose parsing takes 150 ms and 21 MB of garbage, at the first
// write of a server that wants to be ready in less than a second. Here each type is a line of types.txt, and only what a
// kind reaches is read when that kind is first written: a millisecond or less. What the lines say most often is one letter.
//
// types.txt is made from client-go's schemas by `go test ./apiserver/fieldschema -update`; the test fails when the two
// have come apart. Kinds that are not in it (none of a v1 or v2 API) have no schema: Type says so.
package fieldschema
