// SPDX-License-Identifier: Apache-2.0

package kubelet

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	"k8s.io/apimachinery/pkg/labels"

	"github.com/mini-k8s/mini/kubelet/downward"
	"github.com/mini-k8s/mini/kubelet/object"
)

// objectKeys lists the Secrets and ConfigMaps that the pod reads besides its volumes: environment and pull secrets.
func objectKeys(pod *corev1.Pod) []object.Key {
	var keys []object.Key
	add := func(kind object.Kind, name string) {
		if name != "" {
			keys = append(keys, object.Key{Kind: kind, Namespace: pod.Namespace, Name: name})
		}
	}
	from := func(c *corev1.Container) {
		for _, e := range c.EnvFrom {
			if e.ConfigMapRef != nil {
				add(object.ConfigMap, e.ConfigMapRef.Name)
			}
			if e.SecretRef != nil {
				add(object.Secret, e.SecretRef.Name)
			}
		}
		for _, e := range c.Env {
			if e.ValueFrom != nil && e.ValueFrom.ConfigMapKeyRef != nil {
				add(object.ConfigMap, e.ValueFrom.ConfigMapKeyRef.Name)
			}
			if e.ValueFrom != nil && e.ValueFrom.SecretKeyRef != nil {
				add(object.Secret, e.ValueFrom.SecretKeyRef.Name)
			}
		}
	}
	for c := range podContainers(pod) {
		from(c)
	}
	for i := range pod.Spec.EphemeralContainers {
		from((*corev1.Container)(&pod.Spec.EphemeralContainers[i].EphemeralContainerCommon))
	}
	for _, s := range pod.Spec.ImagePullSecrets {
		add(object.Secret, s.Name)
	}
	return keys
}

// environment resolves a container's variables: as "K=V" in the order of the spec, and as a map for expansion.
func (k *Kubelet) environment(ctx context.Context, pod *corev1.Pod, c *corev1.Container, podIPs []string) ([]string, map[string]string, error) {
	facts := k.facts(podIPs)
	if pod.Spec.HostNetwork {
		facts.PodIPs = k.hostIPs()
	}
	vars := map[string]string{}
	var order []string
	set := func(name, value string) {
		if _, ok := vars[name]; !ok {
			order = append(order, name)
		}
		vars[name] = value
	}
	if err := k.envFrom(ctx, pod, c, set); err != nil {
		return nil, nil, err
	}
	services := k.serviceEnv(pod)
	lookup := func(name string) (string, bool) {
		if v, ok := vars[name]; ok {
			return v, true
		}
		v, ok := services[name]
		return v, ok
	}
	for i := range c.Env {
		e := &c.Env[i]
		if e.ValueFrom == nil {
			set(e.Name, expand(e.Value, lookup))
			continue
		}
		v, ok, err := k.envValue(ctx, pod, c, facts, e.ValueFrom)
		if err != nil {
			return nil, nil, err
		}
		if ok {
			set(e.Name, v)
		}
	}
	for _, name := range slices.Sorted(maps.Keys(services)) {
		if _, ok := vars[name]; !ok {
			set(name, services[name])
		}
	}
	env := make([]string, 0, len(order)+1)
	if _, ok := vars["HOSTNAME"]; !ok {
		h := hostname(pod, k.cfg.ClusterDomain)
		if pod.Spec.HostNetwork {
			h = k.cfg.Hostname
		}
		env = append(env, "HOSTNAME="+h)
	}
	for _, name := range order {
		env = append(env, name+"="+vars[name])
	}
	return env, vars, nil
}

func (k *Kubelet) envFrom(ctx context.Context, pod *corev1.Pod, c *corev1.Container, set func(name, value string)) error {
	for _, e := range c.EnvFrom {
		data := map[string]string{}
		switch {
		case e.ConfigMapRef != nil:
			cm, err := k.objects.ConfigMap(ctx, pod.Namespace, e.ConfigMapRef.Name)
			if apierrors.IsNotFound(err) && e.ConfigMapRef.Optional != nil && *e.ConfigMapRef.Optional {
				continue
			}
			if err != nil {
				return err
			}
			data = cm.Data
		case e.SecretRef != nil:
			s, err := k.objects.Secret(ctx, pod.Namespace, e.SecretRef.Name)
			if apierrors.IsNotFound(err) && e.SecretRef.Optional != nil && *e.SecretRef.Optional {
				continue
			}
			if err != nil {
				return err
			}
			for key, v := range s.Data {
				data[key] = string(v)
			}
		}
		var invalid []string
		for _, key := range slices.Sorted(maps.Keys(data)) {
			name := e.Prefix + key
			if name == "" || strings.ContainsAny(name, "=\x00") {
				invalid = append(invalid, key)
				continue
			}
			set(name, data[key])
		}
		if len(invalid) > 0 {
			k.recorder.Eventf(pod, corev1.EventTypeWarning, "InvalidEnvironmentVariableNames", "Keys [%s] were skipped since they are considered invalid environment variable names.", strings.Join(invalid, ", "))
		}
	}
	return nil
}

// envValue resolves one valueFrom; ok is false for an optional one whose source is absent.
func (k *Kubelet) envValue(ctx context.Context, pod *corev1.Pod, c *corev1.Container, f downward.Facts, from *corev1.EnvVarSource) (v string, ok bool, err error) {
	switch {
	case from.FieldRef != nil:
		v, err = downward.Field(pod, f, from.FieldRef.FieldPath)
		return v, true, err
	case from.ResourceFieldRef != nil:
		v, err = downward.Resource(pod, c, f, from.ResourceFieldRef)
		return v, true, err
	case from.ConfigMapKeyRef != nil:
		ref := from.ConfigMapKeyRef
		optional := ref.Optional != nil && *ref.Optional
		cm, err := k.objects.ConfigMap(ctx, pod.Namespace, ref.Name)
		if err != nil {
			if optional && apierrors.IsNotFound(err) {
				return "", false, nil
			}
			return "", false, err
		}
		v, ok := cm.Data[ref.Key]
		if !ok && !optional {
			return "", false, fmt.Errorf("couldn't find key %v in ConfigMap %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return v, ok, nil
	case from.SecretKeyRef != nil:
		ref := from.SecretKeyRef
		optional := ref.Optional != nil && *ref.Optional
		s, err := k.objects.Secret(ctx, pod.Namespace, ref.Name)
		if err != nil {
			if optional && apierrors.IsNotFound(err) {
				return "", false, nil
			}
			return "", false, err
		}
		v, ok := s.Data[ref.Key]
		if !ok && !optional {
			return "", false, fmt.Errorf("couldn't find key %v in Secret %v/%v", ref.Key, pod.Namespace, ref.Name)
		}
		return string(v), ok, nil
	}
	return "", false, nil
}

// serviceEnv gives the variables of the Services that exist when the container starts: those of its own namespace, if
// enableServiceLinks, and in any case the API server's.
func (k *Kubelet) serviceEnv(pod *corev1.Pod) map[string]string {
	out := map[string]string{}
	add := func(s *corev1.Service) {
		if s.Spec.ClusterIP != "" && s.Spec.ClusterIP != corev1.ClusterIPNone && len(s.Spec.Ports) > 0 && s.Spec.Type != corev1.ServiceTypeExternalName {
			serviceVariables(out, s)
		}
	}
	if s, err := k.services.Services(metav1Default).Get("kubernetes"); err == nil {
		add(s)
	}
	if pod.Spec.EnableServiceLinks != nil && !*pod.Spec.EnableServiceLinks {
		return out
	}
	all, err := k.services.Services(pod.Namespace).List(labels.Everything())
	if err != nil {
		return out
	}
	for _, s := range all {
		add(s)
	}
	return out
}

const metav1Default = "default"

// serviceVariables are those of Docker's links: NAME_SERVICE_HOST, NAME_PORT_80_TCP_ADDR and so on.
func serviceVariables(out map[string]string, s *corev1.Service) {
	prefix := strings.ToUpper(strings.ReplaceAll(s.Name, "-", "_"))
	ip := s.Spec.ClusterIP
	out[prefix+"_SERVICE_HOST"] = ip
	out[prefix+"_SERVICE_PORT"] = strconv.Itoa(int(s.Spec.Ports[0].Port))
	for i, p := range s.Spec.Ports {
		port, proto := strconv.Itoa(int(p.Port)), string(p.Protocol)
		if proto == "" {
			proto = "TCP"
		}
		if p.Name != "" {
			out[prefix+"_SERVICE_PORT_"+strings.ToUpper(strings.ReplaceAll(p.Name, "-", "_"))] = port
		}
		url := strings.ToLower(proto) + "://" + net.JoinHostPort(ip, port)
		if i == 0 {
			out[prefix+"_PORT"] = url
		}
		pp := prefix + "_PORT_" + port + "_" + strings.ToUpper(proto)
		out[pp], out[pp+"_PROTO"], out[pp+"_PORT"], out[pp+"_ADDR"] = url, strings.ToLower(proto), port, ip
	}
}

// expand replaces $(NAME) by its value. "$$" is a dollar sign, so "$$(NAME)" stays as "$(NAME)"; a name that is not known stays as it is.
func expand(s string, lookup func(string) (string, bool)) string {
	if !strings.Contains(s, "$") {
		return s
	}
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] != '$' || i+1 == len(s) {
			b.WriteByte(s[i])
			continue
		}
		switch s[i+1] {
		case '$':
			b.WriteByte('$')
			i++
		case '(':
			end := strings.IndexByte(s[i:], ')')
			if end < 0 {
				b.WriteString("$(")
				i++
				continue
			}
			name := s[i+2 : i+end]
			if v, ok := lookup(name); ok {
				b.WriteString(v)
			} else {
				b.WriteString(s[i : i+end+1])
			}
			i += end
		default:
			b.WriteByte('$')
			b.WriteByte(s[i+1])
			i++
		}
	}
	return b.String()
}

func expandAll(list []string, vars map[string]string) []string {
	var out []string
	for _, s := range list {
		out = append(out, expand(s, func(n string) (string, bool) { v, ok := vars[n]; return v, ok }))
	}
	return out
}

// expandStrict is for subPathExpr, where a missing variable must not turn into part of a path.
func expandStrict(s string, vars map[string]string) (string, error) {
	var missing []string
	out := expand(s, func(n string) (string, bool) {
		v, ok := vars[n]
		if !ok {
			missing = append(missing, n)
		}
		return v, ok
	})
	if len(missing) > 0 {
		return "", fmt.Errorf("missing value for %q", missing[0])
	}
	return out, nil
}
