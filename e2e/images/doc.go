// Command images writes the stand-ins for the images of upstream's end-to-end tests into one OCI archive, under the
// references by which the tests ask for them: the machines that run the tests have no registry to pull from.
//
// A stand-in holds what the conformance tests call in the real image. Most of that is agnhost, built from upstream's
// sources, over one layer of Debian packages with a shell, curl, nc, dig and the like. The layers are shared by all images,
// so that a node unpacks them once.
//
//	images -o FILE.tar -agnhost PROGRAM -porter DIR -nnp PROGRAM -pause PROGRAM -sh PROGRAM DEB…
package main
