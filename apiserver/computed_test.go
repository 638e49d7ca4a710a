package apiserver

import (
	"context"
	"errors"
	"testing"

	corev1 "k8s.io/api/core/v1"

	"github.com/mini-k8s/mini/apiserver/registry"
	"github.com/mini-k8s/mini/apiserver/registry/core"
	"github.com/mini-k8s/mini/store"
)

func TestComponentStatuses(t *testing.T) {
	row := core.ComponentStatus(registry.Deps{StoreHealthy: func(context.Context) error { return errors.New("no leader") }})
	c := computed(row.Computed)
	list, err := c.List(t.Context(), store.ListOptions{})
	if err != nil || len(list.Items) != 3 {
		t.Fatalf("%d items, %v", len(list.Items), err)
	}
	item, err := c.Get(t.Context(), "etcd-0", "")
	if err != nil {
		t.Fatal(err)
	}
	if cells := row.Table.Cells(item.Object.(*corev1.ComponentStatus)); cells[1] != "Unhealthy" || cells[3] != "no leader" {
		t.Errorf("cells %v", cells)
	}
	if item, _ = c.Get(t.Context(), "scheduler", ""); row.Table.Cells(item.Object)[1] != "Healthy" {
		t.Error("the scheduler is not healthy")
	}
	if _, err := c.Get(t.Context(), "nobody", ""); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a component that is not there: %v", err)
	}
}
