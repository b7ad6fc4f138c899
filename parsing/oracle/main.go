// What kube-apiserver itself makes of a request line: reads `METHOD target` lines, writes one JSON object per line.
package main

import (
	"bufio"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
)

type reading struct {
	Error                                                  bool
	Resource                                               bool
	Verb, Path, Group, Version, Kind, Sub, Namespace, Name string
	// Every pair that Go's own decoder of queries keeps.
	Query map[string][]string
	// The terms of the selectors, as the API server's parsers read them; null if they refuse.
	Fields, Labels []string
}

func fieldTerms(text string) []string {
	selector, err := fields.ParseSelector(text)
	if err != nil {
		return nil
	}
	terms := []string{}
	for _, term := range selector.Requirements() {
		terms = append(terms, fmt.Sprintf("%s %s %q", term.Field, term.Operator, term.Value))
	}
	return terms
}

func labelTerms(text string) []string {
	selector, err := labels.Parse(text)
	if err != nil {
		return nil
	}
	terms := []string{}
	requirements, _ := selector.Requirements()
	for _, term := range requirements {
		operator := strings.Replace(string(term.Operator()), "==", "=", 1)
		terms = append(terms, fmt.Sprintf("%s %s %q", term.Key(), operator, term.Values().List()))
	}
	return terms
}

func resolve(factory *request.RequestInfoFactory, line string) reading {
	method, target, _ := strings.Cut(line, " ")
	text := fmt.Sprintf("%s %s HTTP/1.1\r\nHost: gate\r\n\r\n", method, target)
	req, err := http.ReadRequest(bufio.NewReader(strings.NewReader(text)))
	if err != nil {
		return reading{Error: true}
	}
	info, err := factory.NewRequestInfo(req)
	if err != nil {
		return reading{Error: true}
	}
	out := reading{Resource: info.IsResourceRequest, Verb: info.Verb, Path: info.Path}
	out.Group, out.Version, out.Kind, out.Sub = info.APIGroup, info.APIVersion, info.Resource, info.Subresource
	out.Namespace, out.Name = info.Namespace, info.Name
	out.Query = req.URL.Query()
	out.Fields = fieldTerms(req.URL.Query().Get("fieldSelector"))
	out.Labels = labelTerms(req.URL.Query().Get("labelSelector"))
	return out
}

func main() {
	factory := &request.RequestInfoFactory{
		APIPrefixes:          sets.NewString("api", "apis"),
		GrouplessAPIPrefixes: sets.NewString("api"),
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 1<<20)
	buffered := bufio.NewWriterSize(os.Stdout, 1<<20)
	out := json.NewEncoder(buffered)
	out.SetEscapeHTML(false)
	for lines.Scan() {
		if err := out.Encode(resolve(factory, lines.Text())); err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
	}
	if err := lines.Err(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	if err := buffered.Flush(); err != nil {
		os.Exit(1)
	}
}
