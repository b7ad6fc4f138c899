package main

import (
	"reflect"
	"slices"
	"sort"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	utilruntime "k8s.io/apimachinery/pkg/util/runtime"
	"k8s.io/client-go/kubernetes/scheme"
	apiregistration "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
)

// Every kind that kube-apiserver serves itself, as its clients know it.
func known() *runtime.Scheme {
	all := runtime.NewScheme()
	utilruntime.Must(scheme.AddToScheme(all))
	utilruntime.Must(apiextensions.AddToScheme(all))
	utilruntime.Must(apiregistration.AddToScheme(all))
	return all
}

// What no server of a supported version takes from a client.
var gone = []string{
	"apps/v1beta1, ", "apps/v1beta2, ", "extensions/v1beta1, ", "internal.apiserver.k8s.io/v1alpha1, ",
	"/v1, Kind=PodStatusResult", "/v1, Kind=RangeAllocation", "/v1, Kind=SerializedReference",
	"apiextensions.k8s.io/v1, Kind=ConversionReview",
}

// The kinds that a client may send: no lists, and no options but those of a delete.
func kinds(all *runtime.Scheme) []schema.GroupVersionKind {
	var out []schema.GroupVersionKind
	for gvk, kind := range all.AllKnownTypes() {
		if gvk.Version == runtime.APIVersionInternal || strings.HasSuffix(gvk.Kind, "List") {
			continue
		}
		ofMeta := strings.HasSuffix(kind.PkgPath(), "/apis/meta/v1")
		options := strings.HasSuffix(gvk.Kind, "Options")
		if (ofMeta || options) && (gvk.Kind != "DeleteOptions" || gvk.Group != "" || gvk.Version != "v1") {
			continue
		}
		name := gvk.String()
		if slices.ContainsFunc(gone, func(prefix string) bool { return strings.HasPrefix(name, prefix) }) {
			continue
		}
		if _, has := reflect.New(kind).Interface().(interface{ Marshal() ([]byte, error) }); !has {
			continue
		}
		out = append(out, gvk)
	}
	sort.Slice(out, func(a, b int) bool { return out[a].String() < out[b].String() })
	return out
}
