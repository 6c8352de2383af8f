//go:build !linux

package pump

import (
	"context"
	"errors"
)

var errLinux = errors.New("pump: epoll is Linux's: run this on Linux")

// Closed keeps every connection busy.
func Closed(context.Context, Options) (*Result, error) { return nil, errLinux }

// Open asks when visitors come.
func Open(context.Context, Options) (*Result, error) { return nil, errLinux }
