// Package engines finds the embedded engines' files, which the script setup beside it has fetched.
package engines

import (
	"fmt"
	"os"
	"path/filepath"
)

// Files are where the engines' files lie.
type Files struct {
	// LibCHDB is ClickHouse as a shared library.
	LibCHDB string
	// Postgres is the directory with PostgreSQL's bin, lib and share.
	Postgres string
}

// Find looks for the engines in $SPILLWAY_ENGINES, else beside the program (../standalone/engines), else in
// ./standalone/engines. An empty program is this one. What is missing is an error that says how to fetch it.
func Find(program string) (Files, error) {
	if dir := os.Getenv("SPILLWAY_ENGINES"); dir != "" {
		files, err := in(dir)
		if err != nil {
			return Files{}, fmt.Errorf("SPILLWAY_ENGINES: %w", err)
		}
		return files, nil
	}
	dirs, err := places(program)
	if err != nil {
		return Files{}, err
	}
	var failure error
	for _, dir := range dirs {
		files, err := in(dir)
		if err == nil {
			return files, nil
		}
		if failure == nil {
			failure = err
		}
	}
	return Files{}, failure
}

// places returns where the engines may be, beside the program first.
func places(program string) (dirs []string, err error) {
	if program == "" {
		if program, err = os.Executable(); err != nil {
			return nil, fmt.Errorf("find this program: %w", err)
		}
	}
	if real, err := filepath.EvalSymlinks(program); err == nil {
		dirs = append(dirs, filepath.Join(filepath.Dir(real), "..", "standalone", "engines"))
	}
	if here, err := filepath.Abs(filepath.Join("standalone", "engines")); err == nil {
		dirs = append(dirs, here)
	}
	return dirs, nil
}

// Countries returns the file of the country database that the script setup fetches with the engines (CC0, ip-location-db), or nothing if
// it is not there: then countries are unknown.
func Countries(program string) string {
	dirs, err := places(program)
	if err != nil {
		return ""
	}
	if dir := os.Getenv("SPILLWAY_ENGINES"); dir != "" {
		dirs = []string{dir}
	}
	for _, dir := range dirs {
		file := filepath.Join(dir, "node_modules", "@ip-location-db", "geo-whois-asn-country-mmdb", "geo-whois-asn-country.mmdb")
		if _, err := os.Stat(file); err == nil {
			return file
		}
	}
	return ""
}

func in(dir string) (Files, error) {
	find := func(pattern string) (string, error) {
		found, err := filepath.Glob(filepath.Join(dir, "node_modules", pattern))
		if err != nil || len(found) == 0 {
			return "", fmt.Errorf("the embedded engines are not in %s: run 'make setup'", dir)
		}
		return filepath.Abs(found[0])
	}
	library, err := find("@chdb/*/libchdb.*")
	if err != nil {
		return Files{}, err
	}
	server, err := find("@embedded-postgres/*/native/bin/postgres")
	if err != nil {
		return Files{}, err
	}
	return Files{LibCHDB: library, Postgres: filepath.Dir(filepath.Dir(server))}, nil
}
