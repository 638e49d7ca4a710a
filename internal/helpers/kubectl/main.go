// SPDX-License-Identifier: Apache-2.0

// Command kubectl is the unmodified kubectl command, built beside mini rather than into it: its package initialisation
// would cost every mini process 20 ms and 4.4 MB.
package main

import (
	"os"

	"k8s.io/component-base/cli"
	"k8s.io/kubectl/pkg/cmd"
	"k8s.io/kubectl/pkg/cmd/util"

	_ "k8s.io/client-go/plugin/pkg/client/auth" // the credential plugins that a kubeconfig may name
)

func main() {
	if err := cli.RunNoErrOutput(cmd.NewDefaultKubectlCommand()); err != nil {
		util.CheckErr(err) // prints the error and exits as every kubectl does
		os.Exit(1)
	}
}
