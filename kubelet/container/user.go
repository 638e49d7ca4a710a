// SPDX-License-Identifier: Apache-2.0

package container

import (
	"bufio"
	"bytes"
	"fmt"
	"math"
	"slices"
	"strconv"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// user is who a container's process runs as.
type user struct {
	UID    uint32   `json:"uid"`
	GID    uint32   `json:"gid"`
	Groups []uint32 `json:"groups"` // GID is one of them
}

// status is how the pod's status shows it; nil if nothing was recorded.
func (u *user) status() *corev1.LinuxContainerUser {
	if u == nil {
		return nil
	}
	s := &corev1.LinuxContainerUser{UID: int64(u.UID), GID: int64(u.GID)}
	for _, gid := range u.Groups {
		s.SupplementalGroups = append(s.SupplementalGroups, int64(gid))
	}
	return s
}

// userDB is an image's /etc/passwd and /etc/group, as far as they exist.
type userDB struct {
	passwd, group []byte
}

type passwdEntry struct {
	name     string
	uid, gid uint32
}

type groupEntry struct {
	name    string
	gid     uint32
	members []string
}

// entries calls fn with the fields of each well-formed line; broken lines are passed over, as the C library does.
func entries(data []byte, fields int, fn func([]string) (stop bool)) {
	lines := bufio.NewScanner(bytes.NewReader(data))
	for lines.Scan() {
		f := strings.Split(strings.TrimSpace(lines.Text()), ":")
		if len(f) >= fields && f[0] != "" && fn(f) {
			return
		}
	}
}

func parseID(s string) (uint32, bool) {
	v, err := strconv.ParseInt(s, 10, 64)
	return uint32(v), err == nil && v >= 0 && v <= math.MaxInt32
}

func (db userDB) user(match func(passwdEntry) bool) (found passwdEntry, ok bool) {
	entries(db.passwd, 4, func(f []string) bool {
		uid, ok1 := parseID(f[2])
		gid, ok2 := parseID(f[3])
		e := passwdEntry{f[0], uid, gid}
		if ok1 && ok2 && match(e) {
			found, ok = e, true
		}
		return ok
	})
	return found, ok
}

func (db userDB) groups(match func(groupEntry) bool) (gids []uint32) {
	entries(db.group, 3, func(f []string) bool {
		gid, ok := parseID(f[2])
		e := groupEntry{name: f[0], gid: gid}
		if len(f) > 3 && f[3] != "" {
			e.members = strings.Split(f[3], ",")
		}
		if ok && match(e) {
			gids = append(gids, gid)
		}
		return false
	})
	return gids
}

// resolveUser decides who the container runs as: runAsUser and runAsGroup, else the image's USER ("name", "uid",
// "name:group" or "uid:gid"), else root. Groups are the primary one, those the image's /etc/group lists the user in
// (unless the pod's supplementalGroupsPolicy is Strict), supplementalGroups and fsGroup.
func resolveUser(pod *corev1.Pod, c *corev1.Container, imageUser string, db userDB) (user, error) {
	sc := effectiveSecurity(pod, c)
	name, group, hasGroup := strings.Cut(imageUser, ":")
	if sc.RunAsUser != nil {
		name, group, hasGroup = strconv.FormatInt(*sc.RunAsUser, 10), "", false
	}
	if name == "" {
		name = "0"
	}
	var u user
	known, ok := db.user(func(e passwdEntry) bool { return e.name == name })
	if id, numeric := parseID(name); numeric && (!ok || sc.RunAsUser != nil) {
		u.UID = id
		known, ok = db.user(func(e passwdEntry) bool { return e.uid == id })
		if !ok {
			known.name = ""
		}
	} else if !ok {
		return user{}, fmt.Errorf("unable to find user %s: no matching entries in passwd file", name)
	}
	if ok {
		u.UID, u.GID = known.uid, known.gid
	}
	switch {
	case sc.RunAsGroup != nil:
		u.GID = uint32(*sc.RunAsGroup)
	case hasGroup && group != "":
		if gids := db.groups(func(e groupEntry) bool { return e.name == group }); len(gids) > 0 {
			u.GID = gids[0]
		} else if gid, numeric := parseID(group); numeric {
			u.GID = gid
		} else {
			return user{}, fmt.Errorf("unable to find group %s: no matching entries in group file", group)
		}
	}
	u.Groups = []uint32{u.GID}
	add := func(gid uint32) {
		if !slices.Contains(u.Groups, gid) {
			u.Groups = append(u.Groups, gid)
		}
	}
	p := pod.Spec.SecurityContext
	strict := p != nil && p.SupplementalGroupsPolicy != nil && *p.SupplementalGroupsPolicy == corev1.SupplementalGroupsPolicyStrict
	if known.name != "" && !strict {
		for _, gid := range db.groups(func(e groupEntry) bool { return slices.Contains(e.members, known.name) }) {
			add(gid)
		}
	}
	if p != nil {
		for _, gid := range p.SupplementalGroups {
			add(uint32(gid))
		}
		if p.FSGroup != nil {
			add(uint32(*p.FSGroup))
		}
	}
	return u, nil
}
