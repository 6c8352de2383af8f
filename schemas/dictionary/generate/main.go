// Command generate writes the data dictionary to the file named on its command line.
package main

import (
	"fmt"
	"os"

	"spillway.dev/schemas/dictionary"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "generate:", err)
		os.Exit(1)
	}
}

func run() error {
	if len(os.Args) != 2 {
		return fmt.Errorf("name the file to write")
	}
	text, err := dictionary.Markdown()
	if err != nil {
		return err
	}
	return os.WriteFile(os.Args[1], []byte(text), 0o644)
}
