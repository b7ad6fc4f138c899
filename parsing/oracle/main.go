// What kube-apiserver itself makes of a request line: reads `METHOD target` lines, writes one JSON object per line.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
)

type row struct {
	Method, Target                                         string
	Error                                                  bool `json:",omitempty"`
	Resource                                               bool
	Verb, Path, Group, Version, Kind, Sub, Namespace, Name string `json:",omitempty"`
}

func resolve(factory *request.RequestInfoFactory, line string) row {
	method, target, _ := strings.Cut(line, " ")
	out := row{Method: method, Target: target}
	text := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: gate\r\n\r\n", method, target)
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		out.Error = true
		return out
	}
	info, err := factory.NewRequestInfo(req)
	if err != nil {
		out.Error = true
		return out
	}
	out.Resource, out.Verb, out.Path = info.IsResourceRequest, info.Verb, info.Path
	out.Group, out.Version, out.Kind, out.Sub = info.APIGroup, info.APIVersion, info.Resource, info.Subresource
	out.Namespace, out.Name = info.Namespace, info.Name
	return out
}

func main() {
	factory := &request.RequestInfoFactory{
		APIPrefixes:          sets.NewString("api", "apis"),
		GrouplessAPIPrefixes: sets.NewString("api"),
	}
	lines := bufio.NewScanner(os.Stdin)
	out := json.NewEncoder(os.Stdout)
	out.SetEscapeHTML(false)
	for lines.Scan() {
		if err := out.Encode(resolve(factory, lines.Text())); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
}
