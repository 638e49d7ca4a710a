// SPDX-License-Identifier: Apache-2.0

package volume

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"time"

	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"

	"github.com/mini-k8s/mini/kubelet/downward"
	"github.com/mini-k8s/mini/kubelet/object"
)

// content is what a volume made from objects is to hold, and when it has to be made anew.
type content struct {
	files map[string]File
	renew time.Time // zero: only when its objects change
}

// Keys lists the objects that a pod's volumes read.
func Keys(pod *corev1.Pod) []object.Key {
	var keys []object.Key
	add := func(kind object.Kind, name string) {
		if name != "" {
			keys = append(keys, object.Key{Kind: kind, Namespace: pod.Namespace, Name: name})
		}
	}
	for i := range pod.Spec.Volumes {
		v := &pod.Spec.Volumes[i]
		if v.Secret != nil {
			add(object.Secret, v.Secret.SecretName)
		}
		if v.ConfigMap != nil {
			add(object.ConfigMap, v.ConfigMap.Name)
		}
		if v.Projected == nil {
			continue
		}
		for _, s := range v.Projected.Sources {
			if s.Secret != nil {
				add(object.Secret, s.Secret.Name)
			}
			if s.ConfigMap != nil {
				add(object.ConfigMap, s.ConfigMap.Name)
			}
		}
	}
	return keys
}

// render collects the files of a configMap, secret, downwardAPI or projected volume; ok is false for any other volume.
func (m *Manager) render(ctx context.Context, pod *corev1.Pod, f downward.Facts, v *corev1.Volume) (c content, ok bool, err error) {
	c.files = map[string]File{}
	switch {
	case v.ConfigMap != nil:
		err = m.configMap(ctx, pod, c.files, v.ConfigMap.Name, v.ConfigMap.Items, mode(v.ConfigMap.DefaultMode), v.ConfigMap.Optional)
	case v.Secret != nil:
		err = m.secret(ctx, pod, c.files, v.Secret.SecretName, v.Secret.Items, mode(v.Secret.DefaultMode), v.Secret.Optional)
	case v.DownwardAPI != nil:
		err = downwardFiles(pod, f, c.files, v.DownwardAPI.Items, mode(v.DownwardAPI.DefaultMode))
	case v.Projected != nil:
		err = m.projected(ctx, pod, f, &c, v.Projected)
	default:
		return content{}, false, nil
	}
	return c, true, err
}

func (m *Manager) projected(ctx context.Context, pod *corev1.Pod, f downward.Facts, c *content, p *corev1.ProjectedVolumeSource) error {
	dm := mode(p.DefaultMode)
	var errs []error
	for i := range p.Sources {
		s := &p.Sources[i]
		switch {
		case s.ConfigMap != nil:
			errs = append(errs, m.configMap(ctx, pod, c.files, s.ConfigMap.Name, s.ConfigMap.Items, dm, s.ConfigMap.Optional))
		case s.Secret != nil:
			errs = append(errs, m.secret(ctx, pod, c.files, s.Secret.Name, s.Secret.Items, dm, s.Secret.Optional))
		case s.DownwardAPI != nil:
			errs = append(errs, downwardFiles(pod, f, c.files, s.DownwardAPI.Items, dm))
		case s.ServiceAccountToken != nil:
			errs = append(errs, m.token(ctx, pod, c, s.ServiceAccountToken, dm))
		default:
			errs = append(errs, errors.New("unsupported projected volume source"))
		}
	}
	return errors.Join(errs...)
}

// token adds a ServiceAccount token. It is private (0600) as soon as the pod says which user or group is to read it.
func (m *Manager) token(ctx context.Context, pod *corev1.Pod, c *content, s *corev1.ServiceAccountTokenProjection, dm fs.FileMode) error {
	t, err := m.cfg.Tokens.token(ctx, pod, s.Audience, s.ExpirationSeconds)
	if err != nil {
		return fmt.Errorf("failed to fetch token: %w", err)
	}
	file := File{Data: []byte(t.value), Mode: dm, UID: onlyUser(pod)}
	if file.UID != nil || fsGroup(pod) != nil {
		file.Mode = 0o600
	}
	c.files[s.Path] = file
	if c.renew.IsZero() || t.renew.Before(c.renew) {
		c.renew = t.renew
	}
	return nil
}

func (m *Manager) configMap(ctx context.Context, pod *corev1.Pod, files map[string]File, name string, items []corev1.KeyToPath, dm fs.FileMode, optional *bool) error {
	cm, err := m.cfg.Objects.ConfigMap(ctx, pod.Namespace, name)
	if err != nil {
		if isOptional(optional) && apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	data := make(map[string][]byte, len(cm.Data)+len(cm.BinaryData))
	for k, v := range cm.Data {
		data[k] = []byte(v)
	}
	for k, v := range cm.BinaryData {
		data[k] = v
	}
	return pick(files, data, items, dm, isOptional(optional), "configmap")
}

func (m *Manager) secret(ctx context.Context, pod *corev1.Pod, files map[string]File, name string, items []corev1.KeyToPath, dm fs.FileMode, optional *bool) error {
	s, err := m.cfg.Objects.Secret(ctx, pod.Namespace, name)
	if err != nil {
		if isOptional(optional) && apierrors.IsNotFound(err) {
			return nil
		}
		return err
	}
	return pick(files, s.Data, items, dm, isOptional(optional), "secret")
}

// pick copies all keys, or those that items name, to where they say.
func pick(files map[string]File, data map[string][]byte, items []corev1.KeyToPath, dm fs.FileMode, optional bool, kind string) error {
	if len(items) == 0 {
		for k, v := range data {
			files[k] = File{Data: v, Mode: dm}
		}
		return nil
	}
	for _, it := range items {
		v, ok := data[it.Key]
		if !ok {
			if optional {
				continue
			}
			return fmt.Errorf("%s references non-existent %s key: %s", kind, kind, it.Key)
		}
		f := File{Data: v, Mode: dm}
		if it.Mode != nil {
			f.Mode = fileMode(*it.Mode)
		}
		files[path.Clean(it.Path)] = f
	}
	return nil
}

func downwardFiles(pod *corev1.Pod, f downward.Facts, files map[string]File, items []corev1.DownwardAPIVolumeFile, dm fs.FileMode) error {
	var errs []error
	for i := range items {
		it := &items[i]
		var v string
		var err error
		switch {
		case it.FieldRef != nil:
			v, err = downward.Field(pod, f, it.FieldRef.FieldPath)
		case it.ResourceFieldRef != nil:
			v, err = downward.Resource(pod, nil, f, it.ResourceFieldRef)
		default:
			err = fmt.Errorf("item %q names no field", it.Path)
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		file := File{Data: []byte(v), Mode: dm}
		if it.Mode != nil {
			file.Mode = fileMode(*it.Mode)
		}
		files[path.Clean(it.Path)] = file
	}
	return errors.Join(errs...)
}

func isOptional(p *bool) bool { return p != nil && *p }

func mode(p *int32) fs.FileMode {
	if p == nil {
		return 0o644
	}
	return fileMode(*p)
}

// fileMode turns Unix bits into Go's, which keep setuid, setgid and sticky elsewhere.
func fileMode(m int32) fs.FileMode {
	f := fs.FileMode(m) & fs.ModePerm
	for bit, flag := range map[int32]fs.FileMode{0o4000: fs.ModeSetuid, 0o2000: fs.ModeSetgid, 0o1000: fs.ModeSticky} {
		if m&bit != 0 {
			f |= flag
		}
	}
	return f
}

func fsGroup(pod *corev1.Pod) *int64 {
	if pod.Spec.SecurityContext == nil {
		return nil
	}
	return pod.Spec.SecurityContext.FSGroup
}

// onlyUser is the user that all containers run as, if the spec says so for every one of them.
func onlyUser(pod *corev1.Pod) *int64 {
	var base, only *int64
	if sc := pod.Spec.SecurityContext; sc != nil {
		base = sc.RunAsUser
	}
	for _, list := range [][]corev1.Container{pod.Spec.InitContainers, pod.Spec.Containers} {
		for i := range list {
			uid := base
			if sc := list[i].SecurityContext; sc != nil && sc.RunAsUser != nil {
				uid = sc.RunAsUser
			}
			if uid == nil || (only != nil && *only != *uid) {
				return nil
			}
			only = uid
		}
	}
	return only
}
