package store_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/stretchr/testify/require"

	"spillway.dev/rollup/export/store"
	"spillway.dev/rollup/export/store/storetest"
)

// Both kinds keep the same promises.
func TestDirectoryKeepsItsPromises(t *testing.T) { promises(t, t.TempDir()) }

func TestBucketKeepsItsPromises(t *testing.T) {
	address := storetest.S3(t)
	promises(t, strings.Replace(address, "?", "/some/prefix?", 1))
}

func promises(t *testing.T, address string) {
	ctx := t.Context()
	open := func() store.Store {
		s, err := store.Open(ctx, address)
		require.NoError(t, err)
		t.Cleanup(func() { _ = s.Close() })
		return s
	}
	s := open()
	require.NotContains(t, s.String(), "?", "no options, which may be secret")
	require.NoError(t, s.CheckExclusive(ctx))
	paths := func(prefix string) (all []string) {
		require.NoError(t, s.List(ctx, prefix, func(o store.Object) error {
			if !strings.HasPrefix(o.Path, store.Unfinished) {
				all = append(all, o.Path)
			}
			return nil
		}))
		return all
	}
	require.Empty(t, paths(""), "the check leaves nothing behind")

	// A file appears whole, with Commit.
	w, err := s.Create(ctx, "a/b/one")
	require.NoError(t, err)
	large := strings.Repeat("0123456789", 2_000_000)
	_, err = w.Write([]byte(large))
	require.NoError(t, err)
	require.Empty(t, paths("a/"))
	require.NoError(t, w.Commit())
	data, err := store.ReadAll(ctx, s, "a/b/one")
	require.NoError(t, err)
	require.True(t, large == string(data))
	o, err := s.Stat(ctx, "a/b/one")
	require.NoError(t, err)
	require.EqualValues(t, len(large), o.Size)

	// Given up, it does not.
	w, err = s.Create(ctx, "a/b/two")
	require.NoError(t, err)
	_, err = w.Write([]byte("half"))
	require.NoError(t, err)
	w.Abort()
	stopped, cancel := context.WithCancel(ctx)
	w, err = s.Create(stopped, "a/b/three")
	require.NoError(t, err)
	cancel()
	w.Abort()
	require.Equal(t, []string{"a/b/one"}, paths(""))

	// Of many that make the same file, in stores of their own, one does.
	var made atomic.Int32
	var running sync.WaitGroup
	for i := range 8 {
		other := open()
		running.Go(func() {
			switch err := other.CreateNew(ctx, "manifests/1", []byte{byte('a' + i)}); {
			case err == nil:
				made.Add(1)
			case !errors.Is(err, store.ErrExists):
				t.Error(err)
			}
		})
	}
	running.Wait()
	require.EqualValues(t, 1, made.Load())
	first, err := store.ReadAll(ctx, s, "manifests/1")
	require.NoError(t, err)
	require.ErrorIs(t, s.CreateNew(ctx, "manifests/1", []byte("z")), store.ErrExists)
	second, err := store.ReadAll(ctx, s, "manifests/1")
	require.NoError(t, err)
	require.Equal(t, first, second)

	require.NoError(t, store.Replace(ctx, s, "manifests/1", []byte("new")))
	require.NoError(t, store.Replace(ctx, s, "manifests/2", nil))
	require.NoError(t, store.Replace(ctx, s, "a/c", []byte("new")))
	require.Equal(t, []string{"a/b/one", "a/c", "manifests/1", "manifests/2"}, paths(""))
	require.Equal(t, []string{"a/b/one"}, paths("a/b"))
	require.Equal(t, []string{"manifests/2"}, paths("manifests/2"))
	require.Empty(t, paths("nowhere/at/all"))

	require.NoError(t, s.Remove(ctx, "a/c"))
	require.NoError(t, s.Remove(ctx, "a/c"), "gone already")
	_, err = s.Read(ctx, "a/c")
	require.ErrorIs(t, err, store.ErrNotFound)
	_, err = s.Stat(ctx, "a/c")
	require.ErrorIs(t, err, store.ErrNotFound)
}

func TestAddresses(t *testing.T) {
	dir := t.TempDir()
	s, err := store.Open(t.Context(), "file://"+dir+"/new/folder")
	require.NoError(t, err)
	require.Equal(t, filepath.Join(dir, "new", "folder"), s.String())
	_, err = s.Create(t.Context(), "../escape")
	require.ErrorContains(t, err, "leaves the export's directory")
	require.NoError(t, os.WriteFile(filepath.Join(dir, "file"), nil, 0o600))
	for address, problem := range map[string]string{
		"":                         "--to or SPILLWAY_EXPORT_TO",
		filepath.Join(dir, "file"): "is a file: give a directory",
		"file://host/path":         "write file:///PATH",
		"ftp://host/path":          "give a directory or s3://BUCKET/PREFIX",
		"s3:///prefix":             "write s3://BUCKET/PREFIX",
	} {
		_, err := store.Open(t.Context(), address)
		require.ErrorContains(t, err, problem, "%s", address)
	}
}

// What an operator can mend in an object store's address, credentials or rights is said with the error.
func TestErrorsOfObjectStoresHaveACure(t *testing.T) {
	address := storetest.S3(t)
	id, secret := os.Getenv("AWS_ACCESS_KEY_ID"), os.Getenv("AWS_SECRET_ACCESS_KEY")
	for _, wrong := range []struct{ address, id, secret, cure string }{
		{strings.Replace(address, "warehouse", "nowhere", 1), id, secret, "make the bucket"},
		{strings.Replace(address, "us-east-1", "", 1), id, secret, "?region="},
		{address, id, "another", "check AWS_ACCESS_KEY_ID"},
		{address, "", "", "set AWS_ACCESS_KEY_ID"},
		{"s3://warehouse?region=us-east-1&use_path_style=true&timeout=100ms&endpoint=http://127.0.0.1:1", id, secret, "?endpoint="},
	} {
		t.Setenv("AWS_ACCESS_KEY_ID", wrong.id)
		t.Setenv("AWS_SECRET_ACCESS_KEY", wrong.secret)
		s, err := store.Open(t.Context(), wrong.address)
		require.NoError(t, err)
		require.ErrorContains(t, s.CheckExclusive(t.Context()), wrong.cure, wrong.address)
		require.NoError(t, s.Close())
	}
}
