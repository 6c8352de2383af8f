package rules

import (
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"net/textproto"
	"os"
	"regexp"
	"strings"
	"unicode"
	"unicode/utf8"

	"go.yaml.in/yaml/v3"

	"spillway.dev/schemas/event"
)

// Bounds of a file: what is beyond was not written by hand.
const (
	maxBytes = 1 << 20
	maxRules = 1000
	maxName  = 64 - len(ReasonPrefix) // a reason is kept to 64 bytes
)

// classNames are the classes that a rule can give.
func classNames() map[string]event.Class {
	return map[string]event.Class{
		"person": event.Class_CLASS_PERSON, "bot": event.Class_CLASS_BOT, "preview": event.Class_CLASS_PREVIEW, "prefetch": event.Class_CLASS_PREFETCH,
		"scanner": event.Class_CLASS_SCANNER, "owner": event.Class_CLASS_OWNER, "test": event.Class_CLASS_TEST,
	}
}

// Read reads a file. Its errors say the line and what to write there.
func Read(path string) (*Set, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	defer f.Close()
	content, err := io.ReadAll(io.LimitReader(f, maxBytes+1))
	if err != nil {
		return nil, fmt.Errorf("rules: %w", err)
	}
	if len(content) > maxBytes {
		return nil, fmt.Errorf("rules: %s is longer than %d bytes: it cannot be a rules file", path, maxBytes)
	}
	s, err := Parse(content)
	if err != nil {
		return nil, fmt.Errorf("rules: %s: %w", path, err)
	}
	return s, nil
}

// Parse reads the content of a file. An empty one has no rules.
func Parse(content []byte) (*Set, error) {
	sum := sha256.Sum256(content)
	s := &Set{hash: hex.EncodeToString(sum[:4]), file: binary.BigEndian.Uint32(sum[:])%(fileVersions-1) + 1}
	var document yaml.Node
	if err := yaml.Unmarshal(content, &document); err != nil {
		return nil, fmt.Errorf("%s: check the indentation and the quotes", strings.TrimPrefix(err.Error(), "yaml: "))
	}
	if len(document.Content) == 0 {
		return s, nil
	}
	top, err := mapping(document.Content[0], "the file", "rules")
	if err != nil {
		return nil, err
	}
	list := top["rules"]
	if list == nil || list.Tag == "!!null" {
		return s, nil
	}
	if list.Kind != yaml.SequenceNode {
		return nil, wrong(list, "rules: write a list, each rule begun by '- name: …'")
	}
	if len(list.Content) > maxRules {
		return nil, wrong(list.Content[maxRules], "more than %d rules: join them by regular expressions", maxRules)
	}
	names := map[string]int{}
	for _, n := range list.Content {
		r, err := readRule(n)
		if err != nil {
			return nil, err
		}
		if line, taken := names[r.Name]; taken {
			return nil, wrong(n, "rule %q is also the name of the rule in line %d: choose another", r.Name, line)
		}
		names[r.Name] = r.Line
		s.rules = append(s.rules, r)
	}
	return s, nil
}

func readRule(n *yaml.Node) (Rule, error) {
	fields, err := mapping(n, "a rule", "name", "user_agent", "network", "header", "class")
	if err != nil {
		return Rule{}, err
	}
	r := Rule{Line: n.Line}
	if r.Name, err = scalar(fields["name"]); err != nil || r.Name == "" {
		return Rule{}, wrong(n, "a rule without a name: add 'name: …', it stands in the reason of what the rule decides")
	}
	if len(r.Name) > maxName || !utf8.ValidString(r.Name) || strings.ContainsFunc(r.Name, unicode.IsControl) {
		return Rule{}, wrong(fields["name"], "rule %q: use a name of at most %d bytes without control characters", r.Name, maxName)
	}
	r.reason = ReasonPrefix + r.Name
	word, err := scalar(fields["class"])
	class, known := classNames()[word]
	if err != nil || !known {
		return Rule{}, wrong(at(fields["class"], n), "rule %q: class %q: use person, bot, preview, prefetch, scanner, owner or test", r.Name, word)
	}
	r.Class = class
	if f := fields["user_agent"]; f != nil {
		if r.agent, err = readText(f, "user_agent"); err != nil {
			return Rule{}, named(r.Name, f, err)
		}
	}
	if f := fields["network"]; f != nil {
		if r.networks, err = readNetworks(f); err != nil {
			return Rule{}, named(r.Name, f, err)
		}
	}
	if f := fields["header"]; f != nil {
		if r.header, err = readHeader(f); err != nil {
			return Rule{}, named(r.Name, f, err)
		}
	}
	if r.agent == nil && r.networks == nil && r.header == nil {
		return Rule{}, wrong(n, "rule %q would hold for everybody: add user_agent, network or header", r.Name)
	}
	return r, nil
}

func readText(n *yaml.Node, what string) (*text, error) {
	if n.Kind == yaml.ScalarNode {
		if n.Tag == "!!null" || n.Value == "" {
			return nil, fmt.Errorf("%s is empty: write what it contains, or leave it out", what)
		}
		return &text{contains: lower(n.Value)}, nil
	}
	fields, err := mapping(n, what, "contains", "regexp")
	if err != nil {
		return nil, err
	}
	return textOf(fields, what)
}

func textOf(fields map[string]*yaml.Node, what string) (*text, error) {
	contains, expression := fields["contains"], fields["regexp"]
	switch {
	case contains != nil && expression != nil:
		return nil, fmt.Errorf("%s has contains and regexp: use one of them", what)
	case contains != nil:
		s, err := scalar(contains)
		if err != nil || s == "" {
			return nil, fmt.Errorf("%s: contains is empty: write a text", what)
		}
		return &text{contains: lower(s)}, nil
	case expression != nil:
		s, err := scalar(expression)
		if err != nil || s == "" {
			return nil, fmt.Errorf("%s: regexp is empty: write a regular expression in single quotes", what)
		}
		compiled, err := regexp.Compile(s)
		if err != nil {
			return nil, fmt.Errorf("%s: %w: use the syntax of Go's regular expressions (RE2), in single quotes", what, err)
		}
		return &text{regexp: compiled}, nil
	}
	return nil, fmt.Errorf("%s: add contains or regexp", what)
}

func readNetworks(n *yaml.Node) ([]netip.Prefix, error) {
	entries := []*yaml.Node{n}
	if n.Kind == yaml.SequenceNode {
		entries = n.Content
	}
	networks := []netip.Prefix{}
	for _, e := range entries {
		s, err := scalar(e)
		if err != nil {
			return nil, errors.New("network: write it as 192.0.2.0/24, or a list of such")
		}
		p, err := netip.ParsePrefix(s)
		if err != nil {
			a, addressErr := netip.ParseAddr(s)
			if addressErr != nil || a.Zone() != "" {
				return nil, fmt.Errorf("network %q: write it as 192.0.2.0/24, 2001:db8::/32 or 192.0.2.1", s)
			}
			p = netip.PrefixFrom(a, a.BitLen())
		}
		if p.Addr().Is4In6() {
			return nil, fmt.Errorf("network %q: write an IPv4 network as IPv4", s)
		}
		networks = append(networks, p.Masked())
	}
	if len(networks) == 0 {
		return nil, errors.New("network is empty: write one, or leave it out")
	}
	return networks, nil
}

func readHeader(n *yaml.Node) (*header, error) {
	fields, err := mapping(n, "header", "name", "contains", "regexp")
	if err != nil {
		return nil, err
	}
	name, err := scalar(fields["name"])
	if err != nil || name == "" || strings.ContainsFunc(name, func(r rune) bool { return r <= ' ' || r == ':' || r > '~' }) {
		return nil, errors.New("header: add the header's name, as in {name: X-Scan, contains: gateway}")
	}
	h := &header{name: textproto.CanonicalMIMEHeaderKey(name)}
	if fields["contains"] == nil && fields["regexp"] == nil {
		return h, nil
	}
	h.value, err = textOf(fields, "header "+h.name)
	return h, err
}

// mapping returns the values of a mapping by their keys, which must be among those that are known.
func mapping(n *yaml.Node, what string, known ...string) (map[string]*yaml.Node, error) {
	if n.Kind != yaml.MappingNode {
		return nil, wrong(n, "%s must be written as 'key: value', with %s", what, strings.Join(known, ", "))
	}
	values := map[string]*yaml.Node{}
	for i := 0; i+1 < len(n.Content); i += 2 {
		key, value := n.Content[i], n.Content[i+1]
		found := false
		for _, k := range known {
			found = found || k == key.Value
		}
		if !found {
			return nil, wrong(key, "%s has no %q: use %s", what, key.Value, strings.Join(known, ", "))
		}
		if values[key.Value] != nil {
			return nil, wrong(key, "%s has %s twice: leave one", what, key.Value)
		}
		values[key.Value] = value
	}
	return values, nil
}

func scalar(n *yaml.Node) (string, error) {
	if n == nil || n.Kind != yaml.ScalarNode || n.Tag == "!!null" {
		return "", errors.New("not a text")
	}
	return n.Value, nil
}

func at(n, otherwise *yaml.Node) *yaml.Node {
	if n == nil {
		return otherwise
	}
	return n
}

// lineError says in which line of a file something is wrong.
type lineError struct {
	line int
	text string
}

func (e *lineError) Error() string { return fmt.Sprintf("line %d: %s", e.line, e.text) }

func wrong(n *yaml.Node, format string, arguments ...any) error {
	return &lineError{n.Line, fmt.Sprintf(format, arguments...)}
}

func named(rule string, n *yaml.Node, err error) error {
	if inner := (*lineError)(nil); errors.As(err, &inner) {
		return &lineError{inner.line, fmt.Sprintf("rule %q: %s", rule, inner.text)}
	}
	return wrong(n, "rule %q: %s", rule, err)
}
