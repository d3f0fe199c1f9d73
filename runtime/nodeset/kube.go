package nodeset

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/url"
	"os/exec"
	"slices"
	"strings"
	"time"
)

// podList is the needed part of the answer of "kubectl get pods -o json".
type podList struct {
	Items []struct {
		Metadata struct {
			Name              string `json:"name"`
			Namespace         string `json:"namespace"`
			DeletionTimestamp string `json:"deletionTimestamp"`
		} `json:"metadata"`
		Spec struct {
			Containers []struct {
				Name string `json:"name"`
			} `json:"containers"`
		} `json:"spec"`
		Status struct {
			Phase string `json:"phase"`
		} `json:"status"`
	} `json:"items"`
}

const (
	// kubectlTimeout bounds how long the cluster may take to list pods.
	kubectlTimeout = 30 * time.Second
	// kubectlGrace is how long a kubectl that was ended may keep its output open, as
	// a helper for credentials that it started does.
	kubectlGrace = time.Second
)

// pods returns every running pod of a node of the kubernetes driver: buildx calls
// a whole deployment one node, but each of its pods is a daemon of its own.
func (st *store) pods(ctx context.Context, b *builder, n builderNode) ([]Spec, error) {
	kubeconfig := ""
	if u, err := url.Parse(n.Endpoint); err == nil && u.Scheme == "kubernetes" {
		kubeconfig = u.Query().Get("kubeconfig")
	}
	deployment := strings.ReplaceAll(n.Name, "_", "-")
	list, err := st.listPods(ctx, kubeconfig, n.DriverOpts["namespace"], deployment)
	if err != nil {
		return nil, fmt.Errorf("list the pods of deployment %s: %w", deployment, err)
	}
	var specs []Spec
	for _, p := range list.Items {
		// A terminating pod still runs, but would be killed under the build.
		if p.Status.Phase != "Running" || p.Metadata.DeletionTimestamp != "" || len(p.Spec.Containers) == 0 {
			continue
		}
		q := url.Values{"container": {p.Spec.Containers[0].Name}}
		if p.Metadata.Namespace != "" {
			q.Set("namespace", p.Metadata.Namespace)
		}
		if kubeconfig != "" {
			q.Set("kubeconfig", kubeconfig)
		}
		u := url.URL{Scheme: "kube-pod", Host: p.Metadata.Name, RawQuery: q.Encode()}
		// The pod, not the deployment, is what holds a cache: the name that
		// history is kept under is the pod's.
		specs = append(specs, Spec{Name: p.Metadata.Name, Addr: u.String()})
	}
	if len(specs) == 0 {
		return nil, fmt.Errorf("deployment %s has no running pod; start it with 'docker buildx inspect --bootstrap %s'", deployment, b.Name)
	}
	slices.SortFunc(specs, func(a, b Spec) int { return cmp.Compare(a.Name, b.Name) })
	return specs, nil
}

func (st *store) listPods(ctx context.Context, kubeconfig, namespace, app string) (*podList, error) {
	argv := append(kubectl(kubeconfig, "", namespace), "get", "pods", "--selector=app="+app, "--output=json")
	ctx, cancel := context.WithTimeoutCause(ctx, kubectlTimeout, fmt.Errorf("kubectl did not answer within %s", kubectlTimeout))
	defer cancel()
	cmd := exec.CommandContext(ctx, argv[0], argv[1:]...)
	cmd.Env = make([]string, 0, len(st.env))
	for k, v := range st.env {
		cmd.Env = append(cmd.Env, k+"="+v)
	}
	cmd.WaitDelay = kubectlGrace
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		if errors.Is(err, exec.ErrNotFound) {
			return nil, fmt.Errorf("a builder of the kubernetes driver needs kubectl on PATH: %w", err)
		}
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		if msg := strings.TrimSpace(stderr.String()); msg != "" {
			return nil, fmt.Errorf("kubectl: %s: %w", msg, err)
		}
		return nil, fmt.Errorf("kubectl: %w", err)
	}
	var list podList
	if err := json.Unmarshal(stdout.Bytes(), &list); err != nil {
		return nil, fmt.Errorf("read the answer of kubectl: %w", err)
	}
	return &list, nil
}
