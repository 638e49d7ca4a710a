// Command mini is a Kubernetes-compatible orchestrator in one binary.
package main

func main() {}
