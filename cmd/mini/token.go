package main

import (
	"fmt"
	"io"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/tools/clientcmd"

	"github.com/mini-k8s/mini/internal/bootstrap"
	"github.com/mini-k8s/mini/internal/pki"
)

func tokenCommand(s streams) *cobra.Command {
	return group("token", "The tokens with which nodes join (on a server)",
		withFlags(&cobra.Command{
			Use: "list", Short: "List the tokens; their secrets are not shown", Args: flagsOnly,
			RunE: func(c *cobra.Command, _ []string) error { return listTokens(c, s.out) },
		}, dataDir, output),
		withFlags(&cobra.Command{
			Use: "create", Short: "Make a token and print it in full", Args: flagsOnly,
			RunE: func(c *cobra.Command, _ []string) error { return createToken(c, s.out) },
		}, dataDir, output, text("description", "", "`TEXT` for people"), func(fs *pflag.FlagSet) {
			fs.Duration("ttl", 24*time.Hour, "`DURATION` until it expires, 0 for never")
		}),
		withFlags(&cobra.Command{
			Use: "delete ID", Short: "Delete a token; nodes that joined with it stay",
			RunE: func(c *cobra.Command, args []string) error { return deleteToken(c, args, s.out) },
		}, dataDir),
	)
}

// adminOf is the cluster-admin client of the server on this machine, and its CA.
func adminOf(c *cobra.Command) (kubernetes.Interface, []byte, error) {
	path := filepath.Join(stringOf(c, "data-dir"), "kubeconfig")
	config, err := clientcmd.BuildConfigFromFlags("", path)
	if err != nil {
		return nil, nil, fmt.Errorf("%w; tokens are made on a server, and --data-dir says where it keeps its data", err)
	}
	client, err := kubernetes.NewForConfig(config)
	return client, config.CAData, err
}

func listTokens(c *cobra.Command, out io.Writer) error {
	asJSON, err := wantJSON(c)
	if err != nil {
		return err
	}
	client, _, err := adminOf(c)
	if err != nil {
		return err
	}
	secrets, err := client.CoreV1().Secrets(bootstrap.SecretNamespace).List(c.Context(), metav1.ListOptions{FieldSelector: "type=" + string(bootstrap.SecretType)})
	if err != nil {
		return err
	}
	type row struct {
		ID          string     `json:"id"`
		Expires     *time.Time `json:"expires,omitempty"`
		Description string     `json:"description,omitempty"`
	}
	rows := []row{}
	for i := range secrets.Items {
		r, err := bootstrap.FromSecret(&secrets.Items[i])
		if err != nil {
			continue // not a token, whatever its type says
		}
		line := row{ID: r.ID, Description: r.Description}
		if !r.Expires.IsZero() {
			line.Expires = &r.Expires
		}
		rows = append(rows, line)
	}
	if asJSON {
		return printJSON(out, rows)
	}
	w := tabwriter.NewWriter(out, 0, 0, 3, ' ', 0)
	fmt.Fprintln(w, "ID\tEXPIRES\tDESCRIPTION")
	for _, r := range rows {
		expires := "never"
		if r.Expires != nil {
			expires = r.Expires.Local().Format(time.DateTime)
		}
		fmt.Fprintf(w, "%s\t%s\t%s\n", r.ID, expires, r.Description)
	}
	return w.Flush()
}

func createToken(c *cobra.Command, out io.Writer) error {
	asJSON, err := wantJSON(c)
	if err != nil {
		return err
	}
	client, ca, err := adminOf(c)
	if err != nil {
		return err
	}
	certs, err := pki.ParseCertificates(ca)
	if err != nil {
		return fmt.Errorf("the kubeconfig's CA: %w", err)
	}
	hash := pki.PublicKeyHash(certs[0])
	token, err := bootstrap.New(hash[:])
	if err != nil {
		return err
	}
	record := bootstrap.Record{Token: token, Description: stringOf(c, "description"), Authentication: true, Signing: true}
	if ttl := must(c.Flags().GetDuration("ttl")); ttl < 0 {
		return usagef("--ttl %s: want 0 or more", ttl)
	} else if ttl > 0 {
		record.Expires = time.Now().Add(ttl).UTC()
	}
	var secret *corev1.Secret = record.MakeSecret()
	if _, err := client.CoreV1().Secrets(secret.Namespace).Create(c.Context(), secret, metav1.CreateOptions{}); err != nil {
		return err
	}
	if asJSON {
		return printJSON(out, map[string]any{"id": token.ID, "token": token.String()})
	}
	_, err = fmt.Fprintln(out, token)
	return err
}

func deleteToken(c *cobra.Command, args []string, out io.Writer) error {
	args, _, err := named(c, args, "ID")
	if err != nil {
		return err
	}
	client, _, err := adminOf(c)
	if err != nil {
		return err
	}
	if err := client.CoreV1().Secrets(bootstrap.SecretNamespace).Delete(c.Context(), bootstrap.SecretName(args[0]), metav1.DeleteOptions{}); err != nil {
		return err
	}
	_, err = fmt.Fprintf(out, "token %s is deleted\n", args[0])
	return err
}
