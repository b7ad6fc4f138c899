// Command client does what a user does with client-go: it reads one deed per line (JSON) and writes its events and its outcome.
package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"

	appsv1 "k8s.io/api/apps/v1"
	authenticationv1 "k8s.io/api/authentication/v1"
	authorizationv1 "k8s.io/api/authorization/v1"
	corev1 "k8s.io/api/core/v1"
	apierrors "k8s.io/apimachinery/pkg/api/errors"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
	"k8s.io/apimachinery/pkg/watch"
	applycorev1 "k8s.io/client-go/applyconfigurations/core/v1"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/kubernetes/scheme"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/remotecommand"
)

type deed struct {
	Deed            string `json:"deed"`
	Namespace       string `json:"namespace"`
	Name            string `json:"name"`
	Text            string `json:"text"`
	Verb            string `json:"verb"`
	Group           string `json:"group"`
	Resource        string `json:"resource"`
	Until           string `json:"until"`
	ResourceVersion string `json:"resourceVersion"`
	Limit           int64  `json:"limit"`
}

type client struct {
	config *rest.Config
	set    *kubernetes.Clientset
	// Told to send JSON, which is not client-go's way when left alone.
	json *kubernetes.Clientset
	out  *json.Encoder
}

func main() {
	config, err := clientcmd.BuildConfigFromFlags("", os.Getenv("KUBECONFIG"))
	if err != nil {
		panic(err)
	}
	asJSON := rest.CopyConfig(config)
	asJSON.ContentType = "application/json"
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	c := client{config, kubernetes.NewForConfigOrDie(config), kubernetes.NewForConfigOrDie(asJSON), out}
	lines := bufio.NewScanner(os.Stdin)
	for lines.Scan() {
		var d deed
		if err := json.Unmarshal(lines.Bytes(), &d); err != nil {
			panic(err)
		}
		said, err := c.do(context.Background(), d)
		c.outcome(said, err)
	}
}

func (c client) outcome(said any, err error) {
	outcome := map[string]any{"ok": err == nil, "said": said}
	if err != nil {
		outcome["said"] = err.Error()
		var status apierrors.APIStatus
		if errors.As(err, &status) {
			outcome["code"], outcome["reason"] = status.Status().Code, status.Status().Reason
		}
	}
	c.write(outcome)
}

func (c client) write(line any) {
	if err := c.out.Encode(line); err != nil {
		panic(err)
	}
}

func (c client) event(kind, name string) {
	c.write(map[string]any{"event": kind, "name": name})
}

func (c client) do(ctx context.Context, d deed) (any, error) {
	maps := c.set.CoreV1().ConfigMaps(d.Namespace)
	switch d.Deed {
	case "whoami":
		return c.set.AuthenticationV1().SelfSubjectReviews().Create(ctx, &authenticationv1.SelfSubjectReview{}, metav1.CreateOptions{})
	case "can-i":
		attributes := &authorizationv1.ResourceAttributes{Namespace: d.Namespace, Verb: d.Verb, Group: d.Group, Resource: d.Resource}
		review := &authorizationv1.SelfSubjectAccessReview{Spec: authorizationv1.SelfSubjectAccessReviewSpec{ResourceAttributes: attributes}}
		return c.set.AuthorizationV1().SelfSubjectAccessReviews().Create(ctx, review, metav1.CreateOptions{})
	case "discovery":
		return c.discovery()
	case "list":
		return maps.List(ctx, metav1.ListOptions{})
	case "pages":
		return c.pages(ctx, d)
	case "secret":
		return c.set.CoreV1().Secrets(d.Namespace).Get(ctx, d.Name, metav1.GetOptions{})
	case "watch":
		return nil, c.watch(ctx, d)
	case "informer":
		return nil, c.informer(ctx, d)
	case "create":
		return maps.Create(ctx, configMap(d), metav1.CreateOptions{})
	case "create-deployment":
		return c.set.AppsV1().Deployments(d.Namespace).Create(ctx, deployment(d), metav1.CreateOptions{})
	case "create-json":
		return c.json.AppsV1().Deployments(d.Namespace).Create(ctx, deployment(d), metav1.CreateOptions{})
	case "apply-server-side":
		apply := applycorev1.ConfigMap(d.Name, d.Namespace).WithData(map[string]string{"text": d.Text})
		return maps.Apply(ctx, apply, metav1.ApplyOptions{FieldManager: "clients", Force: true})
	case "patch":
		patch, _ := json.Marshal(map[string]any{"data": map[string]string{"text": d.Text}})
		return maps.Patch(ctx, d.Name, types.MergePatchType, patch, metav1.PatchOptions{})
	case "replace":
		found, err := maps.Get(ctx, d.Name, metav1.GetOptions{})
		if err != nil {
			return nil, err
		}
		found.Data["text"] = d.Text
		return maps.Update(ctx, found, metav1.UpdateOptions{})
	case "delete":
		if d.Resource == "services" {
			return nil, c.set.CoreV1().Services(d.Namespace).Delete(ctx, d.Name, metav1.DeleteOptions{})
		}
		return nil, c.set.AppsV1().Deployments(d.Namespace).Delete(ctx, d.Name, metav1.DeleteOptions{})
	case "exec":
		return c.exec(ctx, d)
	}
	return nil, fmt.Errorf("unknown deed %q", d.Deed)
}

func (c client) discovery() (any, error) {
	_, lists, err := c.set.Discovery().ServerGroupsAndResources()
	var names []string
	for _, list := range lists {
		for _, resource := range list.APIResources {
			names = append(names, list.GroupVersion+"/"+resource.Name)
		}
	}
	sort.Strings(names)
	return names, err
}

func (c client) pages(ctx context.Context, d deed) (any, error) {
	pages, names, options := 0, []string{}, metav1.ListOptions{Limit: d.Limit}
	for {
		list, err := c.set.CoreV1().ConfigMaps(d.Namespace).List(ctx, options)
		if err != nil {
			return nil, err
		}
		for _, item := range list.Items {
			names = append(names, item.Name)
		}
		pages++
		if options.Continue = list.Continue; options.Continue == "" {
			return map[string]any{"pages": pages, "names": names}, nil
		}
	}
}

func (c client) watch(ctx context.Context, d deed) error {
	options := metav1.ListOptions{ResourceVersion: d.ResourceVersion}
	var w watch.Interface
	var err error
	if d.Resource == "services" {
		w, err = c.set.CoreV1().Services(d.Namespace).Watch(ctx, options)
	} else {
		w, err = c.set.CoreV1().ConfigMaps(d.Namespace).Watch(ctx, options)
	}
	if err != nil {
		return err
	}
	defer w.Stop()
	for event := range w.ResultChan() {
		if event.Type == watch.Error {
			return apierrors.FromObject(event.Object)
		}
		object, ok := event.Object.(metav1.Object)
		if !ok {
			return fmt.Errorf("an event without an object: %v", event)
		}
		c.event(string(event.Type), object.GetName())
		if object.GetName() == d.Until {
			return nil
		}
	}
	return errors.New("the watch ended without an error")
}

func (c client) informer(ctx context.Context, d deed) error {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	factory := informers.NewSharedInformerFactoryWithOptions(c.set, 0, informers.WithNamespace(d.Namespace))
	informer := factory.Core().V1().ConfigMaps().Informer()
	names := make(chan string)
	handler := cache.ResourceEventHandlerFuncs{AddFunc: func(object any) {
		select {
		case names <- object.(metav1.Object).GetName():
		case <-ctx.Done():
		}
	}}
	if _, err := informer.AddEventHandler(handler); err != nil {
		return err
	}
	factory.Start(ctx.Done())
	for name := range names {
		c.event("ADDED", name)
		if name == d.Until {
			return nil
		}
	}
	return nil
}

func (c client) exec(ctx context.Context, d deed) (any, error) {
	options := &corev1.PodExecOptions{Command: []string{"ls"}, Stdout: true, Stderr: true}
	request := c.set.CoreV1().RESTClient().Post().Resource("pods").Name(d.Name).Namespace(d.Namespace).SubResource("exec").
		VersionedParams(options, scheme.ParameterCodec)
	executor, err := remotecommand.NewWebSocketExecutor(c.config, "GET", request.URL().String())
	if err != nil {
		return nil, err
	}
	var output bytes.Buffer
	err = executor.StreamWithContext(ctx, remotecommand.StreamOptions{Stdout: &output, Stderr: &output})
	return output.String(), err
}

func configMap(d deed) *corev1.ConfigMap {
	return &corev1.ConfigMap{ObjectMeta: metav1.ObjectMeta{Name: d.Name}, Data: map[string]string{"text": d.Text}}
}

func deployment(d deed) *appsv1.Deployment {
	labels, none := map[string]string{"app": d.Name}, int32(0)
	pod := corev1.PodTemplateSpec{
		ObjectMeta: metav1.ObjectMeta{Labels: labels},
		Spec:       corev1.PodSpec{Containers: []corev1.Container{{Name: "web", Image: "checkout:2.3.1"}}},
	}
	spec := appsv1.DeploymentSpec{Replicas: &none, Selector: &metav1.LabelSelector{MatchLabels: labels}, Template: pod}
	return &appsv1.Deployment{ObjectMeta: metav1.ObjectMeta{Name: d.Name}, Spec: spec}
}
