package class

import (
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/schemas/event"
)

func TestOf(t *testing.T) {
	for _, c := range []struct {
		name    string
		request Request
		class   event.Class
		reason  string
	}{
		{"a person", Request{}, event.Class_CLASS_PERSON, ""},
		{"HEAD", Request{Head: true}, event.Class_CLASS_HEAD, ReasonHead},
		{"HEAD that prefetches is still HEAD", Request{Head: true, SecPurpose: []byte("prefetch")}, event.Class_CLASS_HEAD, ReasonHead},
		{"prefetch", Request{SecPurpose: []byte("prefetch")}, event.Class_CLASS_PREFETCH, ReasonSecPurpose},
		{"prerender", Request{SecPurpose: []byte("prefetch;prerender")}, event.Class_CLASS_PREFETCH, ReasonSecPurpose},
		{"older Chromium", Request{Purpose: []byte("Prefetch")}, event.Class_CLASS_PREFETCH, ReasonPurpose},
		{"older Safari", Request{XPurpose: []byte("preview")}, event.Class_CLASS_PREFETCH, ReasonXPurpose},
		{"older Firefox", Request{XMoz: []byte("prefetch")}, event.Class_CLASS_PREFETCH, ReasonXMoz},
		{"a purpose that says nothing", Request{SecPurpose: []byte("navigate"), XMoz: []byte("pre")}, event.Class_CLASS_PERSON, ""},
		{"the owner", Request{Owner: true}, event.Class_CLASS_OWNER, ReasonOwner},
		{"the owner's browser, ahead of the owner", Request{Owner: true, Purpose: []byte("prefetch")}, event.Class_CLASS_PREFETCH, ReasonPurpose},
	} {
		t.Run(c.name, func(t *testing.T) {
			class, reason := Of(c.request)
			require.Equal(t, c.class, class)
			require.Equal(t, c.reason, reason)
		})
	}
}

func TestOfAllocatesNothing(t *testing.T) {
	r := Request{SecPurpose: []byte("something else; that=is, long"), XMoz: []byte("pre")}
	require.Zero(t, testing.AllocsPerRun(100, func() { Of(r) }))
}
