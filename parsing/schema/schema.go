package main

import (
	"bufio"
	"fmt"
	"reflect"
	"sort"
	"strconv"
	"strings"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
)

// Types whose JSON is not what their fields say.
var special = map[reflect.Type]string{
	reflect.TypeFor[metav1.Time]():                                "time",
	reflect.TypeFor[metav1.MicroTime]():                           "microtime",
	reflect.TypeFor[resource.Quantity]():                          "quantity",
	reflect.TypeFor[intstr.IntOrString]():                         "intorstring",
	reflect.TypeFor[runtime.RawExtension]():                       "json",
	reflect.TypeFor[metav1.FieldsV1]():                            "json",
	reflect.TypeFor[apiextensions.JSON]():                         "json",
	reflect.TypeFor[apiextensions.JSONSchemaPropsOrBool]():        "schemaorbool",
	reflect.TypeFor[apiextensions.JSONSchemaPropsOrArray]():       "schemaorarray",
	reflect.TypeFor[apiextensions.JSONSchemaPropsOrStringArray](): "schemaortexts",
}

type tables struct {
	names    map[reflect.Type]string
	messages map[string]reflect.Type
	waiting  []reflect.Type
}

func writeSchema(out *bufio.Writer) error {
	all := known()
	t := tables{names: map[reflect.Type]string{}, messages: map[string]reflect.Type{}}
	fmt.Fprintln(out, "# Generated from the Go types of Kubernetes: cd parsing/schema && go run . schema > ../src/protobuf/schema.txt")
	for _, gvk := range kinds(all) {
		name, err := t.message(all.AllKnownTypes()[gvk])
		if err != nil {
			return err
		}
		version, kind := gvk.ToAPIVersionAndKind()
		fmt.Fprintf(out, "kind %s %s %s\n", version, kind, name)
	}
	blocks := map[string]string{}
	for len(t.waiting) > 0 {
		next := t.waiting[0]
		t.waiting = t.waiting[1:]
		lines, err := t.fields(next)
		if err != nil {
			return fmt.Errorf("%s: %w", next, err)
		}
		blocks[t.names[next]] = lines
	}
	names := make([]string, 0, len(blocks))
	for name := range blocks {
		names = append(names, name)
	}
	sort.Strings(names)
	for _, name := range names {
		fmt.Fprintf(out, "message %s\n%s", name, blocks[name])
	}
	return nil
}

// `core/v1.Pod` for the type; it is written once.
func (t *tables) message(kind reflect.Type) (string, error) {
	if name, seen := t.names[kind]; seen {
		return name, nil
	}
	parts := strings.Split(kind.PkgPath(), "/")
	if len(parts) < 2 || kind.Kind() != reflect.Struct {
		return "", fmt.Errorf("%s is no message", kind)
	}
	name := strings.Join(parts[len(parts)-2:], "/") + "." + kind.Name()
	if other, taken := t.messages[name]; taken {
		return "", fmt.Errorf("%s and %s have one name", other, kind)
	}
	t.names[kind], t.messages[name] = name, kind
	t.waiting = append(t.waiting, kind)
	return name, nil
}

// One line for each field: number in protobuf (0: none), name in JSON (-: its fields stand in the parent), how often, type.
func (t *tables) fields(kind reflect.Type) (string, error) {
	var lines strings.Builder
	for i := range kind.NumField() {
		field := kind.Field(i)
		if field.Type == reflect.TypeFor[metav1.TypeMeta]() {
			lines.WriteString("0 kind . string\n0 apiVersion . string\n")
			continue
		}
		number, err := number(field)
		if err != nil {
			return "", err
		}
		name, options, _ := strings.Cut(field.Tag.Get("json"), ",")
		inline := name == "" && strings.Contains(options, "inline")
		if name == "-" || (name == "" && !inline) {
			return "", fmt.Errorf("%s has no name in JSON", field.Name)
		}
		if inline {
			name = "-"
		}
		often, kind, err := t.kind(field.Type)
		if err != nil {
			return "", fmt.Errorf("%s: %w", field.Name, err)
		}
		if inline && (often != "." || !strings.Contains(kind, "/")) {
			return "", fmt.Errorf("%s stands in the parent and is no message", field.Name)
		}
		fmt.Fprintf(&lines, "%d %s %s %s\n", number, name, often, kind)
	}
	return lines.String(), nil
}

func number(field reflect.StructField) (int, error) {
	parts := strings.Split(field.Tag.Get("protobuf"), ",")
	if len(parts) < 2 {
		return 0, fmt.Errorf("%s has no number in protobuf", field.Name)
	}
	return strconv.Atoi(parts[1])
}

// How often: `.` once, absent means the zero value; `?` once or not at all; `*` a list; `%` a map with texts as keys.
func (t *tables) kind(kind reflect.Type) (string, string, error) {
	often, inner := ".", kind
	_, is := special[kind]
	switch {
	case is:
	case kind.Kind() == reflect.Pointer:
		often, inner = "?", kind.Elem()
	case kind.Kind() == reflect.Slice && kind.Elem().Kind() != reflect.Uint8:
		often, inner = "*", kind.Elem()
	case kind.Kind() == reflect.Map && kind.Key().Kind() == reflect.String:
		often, inner = "%", kind.Elem()
	}
	name, err := t.value(inner)
	return often, name, err
}

func (t *tables) value(kind reflect.Type) (string, error) {
	if name, is := special[kind]; is {
		return name, nil
	}
	switch kind.Kind() {
	case reflect.String:
		return "string", nil
	case reflect.Bool:
		return "bool", nil
	case reflect.Int32:
		return "int32", nil
	case reflect.Int64:
		return "int64", nil
	case reflect.Float64:
		return "double", nil
	case reflect.Struct:
		return t.message(kind)
	case reflect.Slice:
		if kind.Elem().Kind() == reflect.Uint8 {
			return "bytes", nil
		}
		// A list that is a message of its own: `repeated string items = 1`.
		if kind.Elem().Kind() == reflect.String && kind.Name() != "" {
			return "texts", nil
		}
	}
	return "", fmt.Errorf("%s is not known", kind)
}
