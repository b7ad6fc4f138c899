// What kube-apiserver itself makes of what a client sends: reads lines, writes one JSON object for each.
//
//	api-reader targets   `METHOD target`
//	api-reader json      a JSON body in base64
//	api-reader yaml      a YAML body in base64
package main

import (
	"bufio"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"strings"

	"k8s.io/apimachinery/pkg/fields"
	"k8s.io/apimachinery/pkg/labels"
	"k8s.io/apimachinery/pkg/util/sets"
	"k8s.io/apiserver/pkg/endpoints/request"
	kjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"
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

type body struct {
	Error string          `json:",omitempty"`
	Json  json.RawMessage `json:",omitempty"`
}

func readBody(line string, isYaml bool) body {
	text, err := base64.StdEncoding.DecodeString(line)
	if err == nil && isYaml {
		text, err = yaml.YAMLToJSON(text)
	}
	var value any
	if err == nil {
		err = kjson.UnmarshalCaseSensitivePreserveInts(text, &value)
	}
	if err == nil {
		text, err = json.Marshal(value)
	}
	if err != nil {
		return body{Error: err.Error()}
	}
	return body{Json: text}
}

func main() {
	factory := &request.RequestInfoFactory{
		APIPrefixes:          sets.NewString("api", "apis"),
		GrouplessAPIPrefixes: sets.NewString("api"),
	}
	readers := map[string]func(line string) any{
		"targets": func(line string) any { return resolve(factory, line) },
		"json":    func(line string) any { return readBody(line, false) },
		"yaml":    func(line string) any { return readBody(line, true) },
	}
	if len(os.Args) != 2 || readers[os.Args[1]] == nil {
		fmt.Fprintln(os.Stderr, "usage: api-reader targets|json|yaml < lines")
		os.Exit(2)
	}
	lines := bufio.NewScanner(os.Stdin)
	lines.Buffer(nil, 8<<20)
	buffered := bufio.NewWriterSize(os.Stdout, 1<<20)
	out := json.NewEncoder(buffered)
	out.SetEscapeHTML(false)
	for lines.Scan() {
		if err := out.Encode(readers[os.Args[1]](lines.Text())); err != nil {
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
