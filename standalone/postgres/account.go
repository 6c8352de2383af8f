package postgres

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"os/user"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
)

// account is the user that the server runs as.
type account struct {
	name       string
	credential *syscall.Credential // nil: this process's own
}

// account chooses the server's user. PostgreSQL refuses to be root.
func (cfg Config) account() (account, error) {
	if os.Geteuid() != 0 {
		return account{name: "this user"}, nil
	}
	names := []string{cfg.User}
	if cfg.User == "" {
		names = []string{"postgres", "nobody"}
		if info, err := os.Stat(filepath.Join(cfg.Data, "cluster")); err == nil {
			if stat, ok := info.Sys().(*syscall.Stat_t); ok && stat.Uid != 0 {
				if owner, err := user.LookupId(strconv.Itoa(int(stat.Uid))); err == nil {
					names = []string{owner.Username}
				}
			}
		}
	}
	for _, name := range names {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, errU := strconv.ParseUint(u.Uid, 10, 32)
		gid, errG := strconv.ParseUint(u.Gid, 10, 32)
		if errU != nil || errG != nil || uid == 0 {
			continue
		}
		return account{name, &syscall.Credential{Uid: uint32(uid), Gid: uint32(gid)}}, nil
	}
	return account{}, fmt.Errorf("PostgreSQL refuses to run as root, and there is no user %s: start Spillway as another user, or name one with SPILLWAY_POSTGRES_USER", strings.Join(names, " or "))
}

// own gives a file to the server's user.
func (a account) own(path string) error {
	if a.credential == nil {
		return nil
	}
	return os.Chown(path, int(a.credential.Uid), int(a.credential.Gid))
}

// reachable checks that the server's user gets to the programs and to the data, and names the directory that bars the way.
func (c *cluster) reachable() error {
	if c.account.credential == nil {
		return nil
	}
	// The data directory is ours to open up: passing through it shows nobody what is in it.
	info, err := os.Stat(c.cfg.Data)
	if err != nil {
		return fmt.Errorf("PostgreSQL's directory: %w", err)
	}
	if info.Mode().Perm()&0o001 == 0 {
		if err := os.Chmod(c.cfg.Data, info.Mode().Perm()|0o011); err != nil {
			return fmt.Errorf("PostgreSQL's directory: %w", err)
		}
	}
	for _, path := range []string{c.program("postgres"), filepath.Join(c.cfg.Data, ".")} {
		if barred := c.barrier(path); barred != "" {
			return fmt.Errorf("PostgreSQL runs as user %s, who may not pass through %s: 'chmod o+x %s', or start Spillway as another user than root", c.account.name, barred, barred)
		}
	}
	check := exec.Command(c.program("postgres"), "--version")
	check.Dir, check.Env = "/", environment()
	check.SysProcAttr = &syscall.SysProcAttr{Credential: c.account.credential}
	if out, err := check.CombinedOutput(); err != nil {
		if errors.Is(err, os.ErrPermission) {
			return fmt.Errorf("user %s may not run %s: 'chmod -R o+rX %s'", c.account.name, c.program("postgres"), c.cfg.Programs)
		}
		return fmt.Errorf("PostgreSQL's programs do not run here: %w: %s", err, strings.TrimSpace(string(out)))
	}
	return nil
}

// barrier is the first directory on the way to path that the server's user may not pass, or empty.
func (c *cluster) barrier(path string) string {
	var parents []string
	for dir := filepath.Dir(path); ; dir = filepath.Dir(dir) {
		parents = append(parents, dir)
		if dir == filepath.Dir(dir) {
			break
		}
	}
	for i := len(parents) - 1; i >= 0; i-- {
		info, err := os.Stat(parents[i])
		if err != nil {
			return parents[i]
		}
		stat, ok := info.Sys().(*syscall.Stat_t)
		if !ok {
			continue
		}
		mode := info.Mode().Perm()
		switch {
		case stat.Uid == c.account.credential.Uid:
			mode >>= 6
		case stat.Gid == c.account.credential.Gid:
			mode >>= 3
		}
		if mode&1 == 0 {
			return parents[i]
		}
	}
	return ""
}
