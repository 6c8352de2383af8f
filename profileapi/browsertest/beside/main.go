// Command beside runs a command beside a Spillway of its own, with a page that has links and some weeks of visits, and takes all of it
// away again. The command finds in its environment:
//
//	API       base URL of the API and the dashboard
//	VISITORS  base URL of the visitors' pages
//	TOKEN     a token that may do everything
//	PROFILE   id of the page, whose handle is ada
//
// Its exit status is the command's.
package main

import (
	"errors"
	"fmt"
	"os"
	"os/exec"

	"spillway.dev/profileapi/browsertest/stage"
)

func main() {
	if err := run(os.Args[1:]); err != nil {
		var ended *exec.ExitError
		if errors.As(err, &ended) {
			os.Exit(ended.ExitCode())
		}
		fmt.Fprintln(os.Stderr, "beside:", err)
		os.Exit(1)
	}
}

func run(command []string) error {
	if len(command) == 0 {
		return errors.New("name the command to run: beside COMMAND [ARGUMENT ...]")
	}
	s, err := stage.Start("SPILLWAY_API_RATE=0")
	if err != nil {
		return err
	}
	defer s.Stop()
	var made struct{ ID string }
	if err := s.Call("POST", "/v1/profiles", map[string]any{"handle": "ada", "title": "Ada Lovelace", "bio": "Notes on the Analytical Engine."}, &made); err != nil {
		return err
	}
	var links []string
	for _, title := range []string{"Notes", "Letters", "The Engine"} {
		var link struct{ ID string }
		if err := s.Call("POST", "/v1/profiles/"+made.ID+"/links", map[string]any{"title": title, "url": "https://example.org/" + title[:1]}, &link); err != nil {
			return err
		}
		links = append(links, link.ID)
	}
	replayed, err := s.Replay("../bench/replay/testdata/apache_logs")
	if err != nil {
		return err
	}
	if err := s.Past(made.ID, links, replayed, 20); err != nil {
		return err
	}
	c := exec.Command(command[0], command[1:]...)
	c.Stdin, c.Stdout, c.Stderr = os.Stdin, os.Stdout, os.Stderr
	c.Env = append(os.Environ(), "API="+s.API, "VISITORS="+s.Visitors, "TOKEN="+s.Token, "PROFILE="+made.ID)
	return c.Run()
}
