package cluster

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/clientcmd/api"
)

// Context is the cluster's name in kubeconfig files.
func (c *Cluster) Context() string { return "mini-" + c.Name }

// writeKubeconfig writes the cluster's own kubeconfig: the server's, with the address under which the machine reaches it.
func (c *Cluster) writeKubeconfig(ctx context.Context) error {
	b, err := c.waitFile(ctx, filepath.Join(c.DataDir(c.Nodes[0].Name), "kubeconfig"))
	if err != nil {
		return err
	}
	server, err := clientcmd.Load(b)
	if err != nil {
		return fmt.Errorf("read the server's kubeconfig: %w", err)
	}
	context, ok := server.Contexts[server.CurrentContext]
	if !ok || server.Clusters[context.Cluster] == nil || server.AuthInfos[context.AuthInfo] == nil {
		return errors.New("the server's kubeconfig has no current context")
	}
	name := c.Context()
	own := api.NewConfig()
	own.Clusters[name] = server.Clusters[context.Cluster]
	own.Clusters[name].Server = "https://127.0.0.1:" + strconv.Itoa(c.APIPort)
	own.AuthInfos[name] = server.AuthInfos[context.AuthInfo]
	own.Contexts[name] = &api.Context{Cluster: name, AuthInfo: name}
	own.CurrentContext = name
	if err := clientcmd.WriteToFile(*own, c.Kubeconfig()); err != nil {
		return fmt.Errorf("write kubeconfig of cluster %s: %w", c.Name, err)
	}
	return nil
}

// MergeKubeconfig adds the cluster as a context to the user's kubeconfig ($KUBECONFIG or ~/.kube/config), makes it the
// current one and returns the file's path. Delete takes it away again.
func (c *Cluster) MergeKubeconfig() (path string, err error) {
	own, err := clientcmd.LoadFromFile(c.Kubeconfig())
	if err != nil {
		return "", fmt.Errorf("kubeconfig of cluster %s: %w", c.Name, err)
	}
	return changeKubeconfig(func(user *api.Config) bool {
		name := c.Context()
		user.Clusters[name], user.AuthInfos[name], user.Contexts[name] = own.Clusters[name], own.AuthInfos[name], own.Contexts[name]
		user.CurrentContext = name
		return true
	})
}

// forgetContext takes the cluster out of the user's kubeconfig, if it is there.
func (c *Cluster) forgetContext() error {
	_, err := changeKubeconfig(func(user *api.Config) bool {
		name := c.Context()
		if user.Contexts[name] == nil && user.Clusters[name] == nil && user.AuthInfos[name] == nil {
			return false
		}
		delete(user.Clusters, name)
		delete(user.AuthInfos, name)
		delete(user.Contexts, name)
		if user.CurrentContext == name {
			user.CurrentContext = ""
		}
		return true
	})
	return err
}

// changeKubeconfig applies change to the user's kubeconfig and writes it if it says so. A file that it leaves empty is removed.
func changeKubeconfig(change func(*api.Config) bool) (path string, err error) {
	path = clientcmd.NewDefaultPathOptions().GetDefaultFilename()
	user, err := clientcmd.LoadFromFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		user, err = api.NewConfig(), nil
	}
	if err != nil {
		return path, fmt.Errorf("read kubeconfig %s: %w", path, err)
	}
	if !change(user) {
		return path, nil
	}
	if len(user.Clusters)+len(user.AuthInfos)+len(user.Contexts) == 0 {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return path, fmt.Errorf("remove empty kubeconfig: %w", err)
		}
		_ = os.Remove(filepath.Dir(path)) // only if it is empty too
		return path, nil
	}
	if err := clientcmd.WriteToFile(*user, path); err != nil {
		return path, fmt.Errorf("write kubeconfig %s: %w", path, err)
	}
	return path, nil
}
