package main

import (
	"context"
	"encoding/json"
	"fmt"
	"log/slog"
	"os"
	"time"

	"spillway.dev/ingest/enrich"
	"spillway.dev/rollup"
	"spillway.dev/rollup/verdict"
	"spillway.dev/schemas/event"
	"spillway.dev/schemas/rules"
	"spillway.dev/service/engines"
)

// rulesCommands work with a file of the operator's rules (docs/counting.md).
type rulesCommands struct {
	Check rulesCheckCommand `cmd:"" help:"Say whether a rules file can be used."`
	Try   rulesTryCommand   `cmd:"" help:"Show which profiles would lose or gain people if the past were judged by a rules file. Changes nothing."`
	Apply rulesApplyCommand `cmd:"" help:"Judge the past by a rules file and close its days again. May be repeated."`
}

type rulesCheckCommand struct {
	File string `arg:"" type:"existingfile" help:"The rules file."`
}

func (c *rulesCheckCommand) Run() error {
	set, err := rules.Read(c.File)
	if err != nil {
		return err
	}
	_, err = fmt.Printf("%s can be used: %s, %s\n", c.File, count(len(set.Rules()), "rule", "rules"), set.Hash())
	return err
}

// count is a number with what it is of.
func count[N int | int64 | uint64](n N, one, many string) string {
	if n == 1 {
		return "1 " + one
	}
	return fmt.Sprint(n, " ", many)
}

// pastCommand is common to what judges the past by a file.
type pastCommand struct {
	toolFlags
	File  string `arg:"" type:"existingfile" help:"The rules file."`
	Days  int    `default:"7" help:"How many days are looked at, today included."`
	Since string `placeholder:"DATE" help:"First date, as 2026-11-01, in the place of --days."`
	Until string `placeholder:"DATE" help:"Last date. Default: today."`
	JSON  bool   `name:"json" help:"Write one JSON object instead of what people read."`
}

// past is what is judged: by which law, on which dates, and where.
type past struct {
	law   verdict.Law
	dates verdict.Range
	where engines.Addresses
	log   *slog.Logger
}

// read looks at the file and at the flags, before any engine is asked.
func (c pastCommand) read() (p past, err error) {
	if p.law, err = law(c.File); err != nil {
		return past{}, err
	}
	if p.dates, err = verdict.Dates(c.Days, c.Since, c.Until, time.Now()); err != nil {
		return past{}, err
	}
	p.log, p.where, err = c.open()
	return p, err
}

// law is how the past is judged by a file of rules.
func law(file string) (verdict.Law, error) {
	set, err := rules.Read(file)
	if err != nil {
		return verdict.Law{}, err
	}
	built, err := enrich.NewRules()
	if err != nil {
		return verdict.Law{}, err
	}
	return verdict.Law{Rules: set, Version: enrich.Version, BuiltIn: func(agent string) verdict.Judgement {
		a := built.Agent(agent)
		name := map[event.Class]string{event.Class_CLASS_PERSON: "person", event.Class_CLASS_BOT: "bot", event.Class_CLASS_PREVIEW: "preview"}[a.Class]
		return verdict.Judgement{Class: name, Reason: a.Reason}
	}}, nil
}

type rulesTryCommand struct {
	pastCommand
	Limit int `default:"30" help:"Most profiles that are shown."`
}

func (c *rulesTryCommand) Run(ctx context.Context) error {
	p, err := c.read()
	if err != nil {
		return err
	}
	trial, err := rollup.TryRules(ctx, p.where, p.law, p.dates, c.Limit)
	if err != nil {
		return err
	}
	if c.JSON {
		return trial.WriteJSON(os.Stdout)
	}
	return trial.WriteTable(os.Stdout)
}

type rulesApplyCommand struct{ pastCommand }

func (c *rulesApplyCommand) Run(ctx context.Context) error {
	p, err := c.read()
	if err != nil {
		return err
	}
	done, err := rollup.ApplyRules(ctx, p.where, p.law, p.dates, p.log)
	if err != nil {
		return err
	}
	if c.JSON {
		return json.NewEncoder(os.Stdout).Encode(done)
	}
	fmt.Printf("%s judged anew, on %s; %s closed again. Lifetime numbers follow within seconds.\n",
		count(done.Events, "event was", "events were"), count(len(done.Days), "day", "days"), count(len(done.Again), "closed day was", "closed days were"))
	if done.Left > 0 {
		fmt.Printf("%s since then and still judged as before: set SPILLWAY_RULES for the redirectors, too, and repeat this.\n", count(done.Left, "event has come", "events have come"))
	}
	return nil
}
