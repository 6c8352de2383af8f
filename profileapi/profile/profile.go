// Package profile keeps creators' profiles and links: what may be in them, and where they are.
package profile

import (
	"errors"
	"fmt"
	"time"
)

// Profile is a page of links.
type Profile struct {
	ID        int64
	Handle    string
	Title     string
	Bio       string
	Timezone  string // IANA name
	Theme     string // auto, light or dark
	Layout    int32  // version of the page, raised by each change that a visitor can see
	CreatedAt time.Time
	UpdatedAt time.Time
}

// Link is one tracked target of a profile.
type Link struct {
	ID        int64
	ProfileID int64
	Code      string
	Title     string
	URL       string
	Position  int32
	Hidden    bool
	QueryMode string // off, append or override
	UTM       UTM
	CreatedAt time.Time
	UpdatedAt time.Time
}

// UTM are the campaign parameters that a redirect writes into the target; an empty one is not written.
type UTM struct{ Source, Medium, Campaign, Term, Content string }

// Change is what to set in a profile; nil keeps what is there.
type Change struct{ Handle, Title, Bio, Timezone, Theme *string }

// LinkChange is what to set in a link; nil keeps what is there.
type LinkChange struct {
	Title     *string
	URL       *string
	Hidden    *bool
	QueryMode *string
	UTM       *UTM
}

var (
	// ErrNotFound means that the account has no such profile, or the profile no such link.
	ErrNotFound = errors.New("not found")
	// ErrHandleTaken means that another living profile has the handle.
	ErrHandleTaken = errors.New("this handle is taken")
	// ErrTooMany means that a limit of number is reached.
	ErrTooMany = errors.New("limit reached")
	// ErrChanged means that it was changed since the version that the caller has seen.
	ErrChanged = errors.New("changed meanwhile")
)

// Invalid says what is wrong with one field of an input.
type Invalid struct {
	Field   string // as in the JSON, for example "url"
	Value   any
	Message string // what is wrong and what would be right
}

func (e *Invalid) Error() string { return fmt.Sprintf("%s: %s", e.Field, e.Message) }

// Limits of number. They bound what one account can make the redirectors cache and a page show.
const (
	MaxProfiles = 1000 // of an account
	MaxLinks    = 500  // of a profile
)
