// SPDX-License-Identifier: Apache-2.0

package container

import "github.com/vishvananda/netlink"

// loopbackUp is what a pod network does in every sandbox.
func loopbackUp() error {
	lo, err := netlink.LinkByName("lo")
	if err != nil {
		return err
	}
	return netlink.LinkSetUp(lo)
}
