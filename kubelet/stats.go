// SPDX-License-Identifier: Apache-2.0

package kubelet

import "net/http"

func (k *Kubelet) serveSummary(w http.ResponseWriter, r *http.Request) {}

func (k *Kubelet) serveResourceMetrics(w http.ResponseWriter, r *http.Request) {}
