package api_test

import (
	"bytes"
	"flag"
	"fmt"
	"io"
	"log/slog"
	"net/http/httptest"
	"os"
	"regexp"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/santhosh-tekuri/jsonschema/v6"
	"github.com/stretchr/testify/require"

	"spillway.dev/profileapi/api"
)

//go:generate go test . -run TestTheDocument -update

var update = flag.Bool("update", false, "write the OpenAPI document to schemas/openapi")

const checkedIn = "../../schemas/openapi/openapi.json"

func TestTheDocument(t *testing.T) {
	a, err := api.New(api.Options{Public: "https://lnk.example", Log: slog.New(slog.NewTextHandler(io.Discard, nil)), Metrics: prometheus.NewRegistry()})
	require.NoError(t, err)
	if *update {
		require.NoError(t, os.WriteFile(checkedIn, a.Document(), 0o644))
	}
	want, err := os.ReadFile(checkedIn)
	require.NoError(t, err)

	served := httptest.NewRecorder()
	a.ServeHTTP(served, httptest.NewRequest("GET", "/openapi.json", nil))
	require.Equal(t, 200, served.Code)
	require.Equal(t, "application/openapi+json", served.Header().Get("Content-Type"))
	require.Equal(t, string(want), served.Body.String(), "the API differs from schemas/openapi/openapi.json: run 'go generate ./api' in profileapi and look at the difference")
	yaml := httptest.NewRecorder()
	a.ServeHTTP(yaml, httptest.NewRequest("GET", "/openapi.yaml", nil))
	require.Contains(t, yaml.Body.String(), "openapi: 3.1.0")

	// testdata has the OpenAPI Initiative's own schema of its documents, version 2022-10-07.
	rules, err := os.ReadFile("testdata/openapi-3.1.json")
	require.NoError(t, err)
	compiler := jsonschema.NewCompiler()
	require.NoError(t, compiler.AddResource("rules.json", parsed(t, rules)))
	schema, err := compiler.Compile("rules.json")
	require.NoError(t, err)
	document := parsed(t, want).(map[string]any)
	require.NoError(t, schema.Validate(document))

	// Every reference leads somewhere, and every schema is one.
	for _, ref := range regexp.MustCompile(`"\$ref": "#/components/schemas/([^"]+)"`).FindAllSubmatch(want, -1) {
		require.Contains(t, document["components"].(map[string]any)["schemas"], string(ref[1]))
	}
	c := newContract(t, want)
	for name := range document["components"].(map[string]any)["schemas"].(map[string]any) {
		_, err := c.compiler.Compile("api.json#/components/schemas/" + name)
		require.NoError(t, err)
	}

	document["info"] = "nothing"
	require.Error(t, schema.Validate(document), "the validator can refuse")
}

func parsed(t *testing.T, b []byte) any {
	t.Helper()
	v, err := jsonschema.UnmarshalJSON(bytes.NewReader(b))
	require.NoError(t, err)
	return v
}

// contract holds answers against the document.
type contract struct {
	t        *testing.T
	compiler *jsonschema.Compiler
	paths    map[string]any
}

func newContract(t *testing.T, document []byte) *contract {
	compiler := jsonschema.NewCompiler()
	all := parsed(t, document)
	require.NoError(t, compiler.AddResource("api.json", all))
	return &contract{t: t, compiler: compiler, paths: all.(map[string]any)["paths"].(map[string]any)}
}

// holds fails the test if the document does not promise an answer of that status, type and shape for an operation that it has.
func (c *contract) holds(method, path string, status int, kind string, body []byte) {
	c.t.Helper()
	path, _, _ = strings.Cut(path, "?")
	for template, item := range c.paths {
		pattern := "^" + regexp.MustCompile(`\\\{[^}]+\}`).ReplaceAllString(regexp.QuoteMeta(template), "[^/]+") + "$"
		if !regexp.MustCompile(pattern).MatchString(path) || strings.HasSuffix(path, "/order") != strings.HasSuffix(template, "/order") || strings.HasSuffix(path, ".csv") != strings.HasSuffix(template, ".csv") {
			continue
		}
		operation, ok := item.(map[string]any)[strings.ToLower(method)].(map[string]any)
		if !ok {
			return
		}
		promised, ok := operation["responses"].(map[string]any)[fmt.Sprint(status)].(map[string]any)
		require.True(c.t, ok, "%s %s answers %d, of which the document says nothing", method, template, status)
		if len(body) == 0 {
			return
		}
		require.Contains(c.t, promised["content"], kind, "%s %s %d", method, template, status)
		if !strings.Contains(kind, "json") {
			return
		}
		escape := strings.NewReplacer("~", "~0", "/", "~1", "{", "%7B", "}", "%7D")
		schema, err := c.compiler.Compile(fmt.Sprintf("api.json#/paths/%s/%s/responses/%d/content/%s/schema",
			escape.Replace(template), strings.ToLower(method), status, escape.Replace(kind)))
		require.NoError(c.t, err)
		require.NoError(c.t, schema.Validate(parsed(c.t, body)), "%s %s %d", method, template, status)
		return
	}
}
