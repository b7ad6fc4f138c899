package main

import (
	"bufio"
	"bytes"
	stdjson "encoding/json"
	"fmt"
	"io"
	"math/rand"
	"time"

	apiextensions "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/schema"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/util/intstr"
	"sigs.k8s.io/json"
	"sigs.k8s.io/randfill"
)

// One object in both encodings; in JSON as Kubernetes writes what it has read from the protobuf.
type line struct {
	APIVersion string             `json:"apiVersion"`
	Kind       string             `json:"kind"`
	Protobuf   []byte             `json:"protobuf"`
	JSON       stdjson.RawMessage `json:"json"`
}

// The first object of each kind has every field; the others have what chance gives them.
func writeObjects(out *bufio.Writer, seed int64, count int) error {
	all := known()
	codec := protobuf.NewSerializer(all, all)
	lines := stdjson.NewEncoder(out)
	lines.SetEscapeHTML(false)
	for _, gvk := range kinds(all) {
		for i := range count {
			object, err := all.New(gvk)
			if err != nil {
				return err
			}
			filler(seed+int64(i), i == 0).Fill(object)
			object.GetObjectKind().SetGroupVersionKind(gvk)
			one, err := both(codec, object, gvk)
			if err != nil {
				return fmt.Errorf("%s: %w", gvk, err)
			}
			if err := lines.Encode(one); err != nil {
				return err
			}
		}
	}
	return nil
}

func both(codec *protobuf.Serializer, object runtime.Object, gvk schema.GroupVersionKind) (line, error) {
	var written bytes.Buffer
	if err := codec.Encode(object, &written); err != nil {
		return line{}, err
	}
	read, _, err := codec.Decode(written.Bytes(), nil, nil)
	if err != nil {
		return line{}, err
	}
	read.GetObjectKind().SetGroupVersionKind(gvk)
	text, err := stdjson.Marshal(read)
	version, kind := gvk.ToAPIVersionAndKind()
	return line{APIVersion: version, Kind: kind, Protobuf: written.Bytes(), JSON: text}, err
}

// Says which JSON is not the object of its protobuf, as the API server reads the two.
func check(in io.Reader, out *bufio.Writer) error {
	all := known()
	codec := protobuf.NewSerializer(all, all)
	lines := stdjson.NewDecoder(in)
	for {
		var one line
		if err := lines.Decode(&one); err == io.EOF {
			return nil
		} else if err != nil {
			return err
		}
		if why := differs(all, codec, one); why != nil {
			fmt.Fprintf(out, "%s %s: %v\n", one.APIVersion, one.Kind, why)
		}
	}
}

func differs(all *runtime.Scheme, codec *protobuf.Serializer, one line) error {
	gvk := schema.FromAPIVersionAndKind(one.APIVersion, one.Kind)
	sent, _, err := codec.Decode(one.Protobuf, nil, nil)
	if err != nil {
		return err
	}
	made, err := all.New(gvk)
	if err != nil {
		return err
	}
	strict, err := json.UnmarshalStrict(one.JSON, made)
	if err != nil {
		return err
	}
	if len(strict) > 0 {
		return strict[0]
	}
	sent.GetObjectKind().SetGroupVersionKind(gvk)
	var before, after bytes.Buffer
	if err := codec.Encode(sent, &before); err != nil {
		return err
	}
	if err := codec.Encode(made, &after); err != nil {
		return err
	}
	if !bytes.Equal(before.Bytes(), after.Bytes()) {
		return fmt.Errorf("the JSON is another object: %s", one.JSON)
	}
	return nil
}

var (
	texts      = []string{"", "a", "web-1", "ü\u20ac\U0001f512", "\"\\\n\t\u0001\u007f\u2028</a>", "[MASKED:x]", "W01BU0tFRDp4XQ=="}
	quantities = []string{"0", "1", "100m", "1Gi", "-5", "1500e3", "12345678901234567890"}
	raws       = []string{`{"a":[1,2.5,"x",null],"b":{"kind":"Any"}}`, `[]`, `"text"`, `7`, `true`, `{}`}
	doubles    = []float64{0, 1, -3, 0.1, 1e-9, 2.5e10}
)

func pick[T any](c randfill.Continue, from []T) T { return from[c.Intn(len(from))] }

func filler(seed int64, whole bool) *randfill.Filler {
	depth := 0
	fill := randfill.New().RandSource(rand.NewSource(seed)).NilChance(.5).NumElements(0, 2).MaxDepth(60)
	if whole {
		fill = fill.NilChance(0).NumElements(1, 2)
	}
	return fill.Funcs(
		func(*metav1.TypeMeta, randfill.Continue) {},
		func(s *string, c randfill.Continue) { *s = pick(c, texts) },
		func(f *float64, c randfill.Continue) { *f = pick(c, doubles) },
		// An empty one and none are two in protobuf, and one in JSON.
		func(b *[]byte, c randfill.Continue) { *b = []byte(pick(c, texts[1:])) },
		func(t *metav1.Time, c randfill.Continue) { t.Time = time.Unix(1+c.Int63n(253402300798), 0) },
		func(t *metav1.MicroTime, c randfill.Continue) {
			t.Time = time.Unix(1+c.Int63n(253402300798), c.Int63n(1_000_000)*1000)
		},
		func(q *resource.Quantity, c randfill.Continue) { *q = resource.MustParse(pick(c, quantities)) },
		func(i *intstr.IntOrString, c randfill.Continue) {
			if *i = intstr.FromInt32(int32(c.Uint32())); c.Bool() {
				*i = intstr.FromString(pick(c, texts))
			}
		},
		func(r *runtime.RawExtension, c randfill.Continue) { r.Raw = []byte(pick(c, raws)) },
		func(r *metav1.FieldsV1, c randfill.Continue) { r.Raw = []byte(`{"f:data":{".":{},"f:a":{}}}`) },
		func(r *apiextensions.JSON, c randfill.Continue) { r.Raw = []byte(pick(c, raws)) },
		func(m *metav1.ObjectMeta, c randfill.Continue) {
			if c.FillNoCustom(m); !whole && c.Bool() {
				m.CreationTimestamp = metav1.Time{}
			}
		},
		func(p *apiextensions.JSONSchemaProps, c randfill.Continue) {
			if depth++; depth <= 2 {
				c.FillNoCustom(p)
			}
			depth--
		},
		func(p *apiextensions.JSONSchemaPropsOrBool, c randfill.Continue) {
			if p.Allows = c.Bool(); p.Allows {
				p.Schema = &apiextensions.JSONSchemaProps{Type: "object"}
			}
		},
		func(p *apiextensions.JSONSchemaPropsOrArray, c randfill.Continue) {
			if props := []apiextensions.JSONSchemaProps{{Type: "object"}}; c.Bool() {
				p.JSONSchemas = props
			} else {
				p.Schema = &props[0]
			}
		},
		func(p *apiextensions.JSONSchemaPropsOrStringArray, c randfill.Continue) {
			if c.Bool() {
				p.Property = []string{"a", "b"}
			} else {
				p.Schema = &apiextensions.JSONSchemaProps{Type: "object"}
			}
		},
	)
}
