// Command bench compares this library with others, and with TCP alone, in what a message
// costs the server. README.md says how to use and to read it.
package main

import (
	"cmp"
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

func main() {
	if roleMain() {
		return
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := bench(ctx, os.Args[1:]); err != nil && !errors.Is(err, flag.ErrHelp) {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// A plan is what the flags ask for.
type plan struct {
	works     []work
	libraries []library
	rounds    int
	before    string  // a checkout of this library, to compare with
	noise     float64 // by how many percent raw TCP may differ between rounds
	output    string
	at        pins
	remarks   []string // what makes the numbers worth less
}

// bench does all that the program does when a user starts it.
func bench(ctx context.Context, args []string) error {
	p, err := parse(args)
	if err != nil {
		return err
	}
	for _, remark := range p.remarks {
		fmt.Fprintln(os.Stderr, "note:", remark)
	}
	if p.before != "" {
		dir, err := os.MkdirTemp("", "bench")
		if err != nil {
			return err
		}
		defer os.RemoveAll(dir)
		b, err := buildWith(ctx, p.before, dir)
		if err != nil {
			return err
		}
		p.addBuild(b)
	}
	results, err := p.measure(ctx)
	if len(results) == 0 {
		return cmp.Or(err, errors.New("nothing to measure"))
	}
	if err != nil {
		p.remarks = append(p.remarks, err.Error())
	}
	quiet := p.quiet(results)
	if len(quiet) == 0 {
		return errors.Join(err, fmt.Errorf("the machine was too noisy: with each work raw TCP differed by more than %g%% between rounds", p.noise))
	}
	if noisy := len(results) - len(quiet); noisy > 0 {
		remark := fmt.Sprintf("the machine was too noisy for %d of %d works, which have no figures", noisy, len(results))
		fmt.Fprintln(os.Stderr, "note:", remark)
		p.remarks = append(p.remarks, remark)
	}
	table := p.markdown(results)
	if p.output == "" {
		fmt.Print(table)
		return err
	}
	table += fmt.Sprintf("![The main works](%s.svg)\n", filepath.Base(p.output))
	if growth := plot(quiet); growth != "" {
		table += fmt.Sprintf("\n![What it costs to have more connections](%s-growth.svg)\n", filepath.Base(p.output))
		err = errors.Join(err, os.WriteFile(p.output+"-growth.svg", []byte(growth), 0o644))
	}
	return errors.Join(err,
		os.WriteFile(p.output+".md", []byte(table), 0o644),
		os.WriteFile(p.output+".svg", []byte(chart(quiet)), 0o644))
}

// restTime is how long all idle connections are left alone before their memory is measured: in
// that time a library may give back what a connection needs only when it is busy.
const restTime = 4 * time.Second

// parse makes a plan of the arguments.
func parse(args []string) (p plan, err error) {
	flags := flag.NewFlagSet("bench", flag.ContinueOnError)
	short := flags.Bool("short", false, "measure a few small works once, to see that all of it runs")
	run := flags.String("run", "", "measure only works whose names match this `regexp`; see -list")
	libs := flags.String("libs", "", "measure only these `libraries`, a list with commas; see -list")
	all := flags.Bool("all", false, "echo all combinations of the default -sizes, -conns and -inflight")
	sizes := flags.String("sizes", "", "echo payloads of these many `bytes`, a list with commas (default 16,128,1024,16384,1048576)")
	conns := flags.String("conns", "", "echo over these `numbers` of connections (default 1,100,5000)")
	inFlight := flags.String("inflight", "", "echo these `numbers` of messages at once on each connection (default 1,16,128)")
	idleConns := flags.String("idle", "", "measure works of which most or all connections are idle, with these `numbers` of them")
	rounds := flags.Int("rounds", 0, "measure all of it so many `times` and take the medians (default 3, or 1 with -short)")
	duration := flags.Duration("d", 0, "measure each work for so long (default 1s, or 50ms with -short)")
	noise := flags.Float64("noise", 15, "give no figures of a work with which raw TCP differs between rounds by more than this `percentage`")
	cpus := flags.String("cpus", "", "`processors` for server and load, such as 0,1 (default: two on different cores)")
	before := flags.String("before", "", "measure each of our libraries also as it is in this `directory`, a checkout of another commit")
	output := flags.String("o", "", "write `name`.md, name.svg and name-growth.svg, instead of the table to the standard output")
	list := flags.Bool("list", false, "list works and libraries, and exit")
	flags.Usage = func() {
		fmt.Fprintln(flags.Output(), "usage: go -C internal/bench run . [flags]")
		flags.PrintDefaults()
	}
	if err := flags.Parse(args); err != nil {
		return p, err
	}
	if flags.NArg() > 0 {
		return p, fmt.Errorf("what is %q?", flags.Arg(0))
	}

	p.works, p.rounds, p.before, p.output = standardWorks(), 3, *before, *output
	if *short {
		p.works, p.rounds = shortWorks(), 1
		*duration = cmp.Or(*duration, 50*time.Millisecond)
	}
	if *all || *sizes != "" || *conns != "" || *inFlight != "" || *idleConns != "" {
		p.works = nil
	}
	if *all || *sizes != "" || *conns != "" || *inFlight != "" {
		s, err1 := numbers(cmp.Or(*sizes, "16,128,1024,16384,1048576"), 1<<20)
		c, err2 := numbers(cmp.Or(*conns, "1,100,5000"), 50000)
		f, err3 := numbers(cmp.Or(*inFlight, "1,16,128"), 10000)
		if err := errors.Join(err1, err2, err3); err != nil {
			return p, err
		}
		p.works = echoWorks(s, c, f)
	}
	if *idleConns != "" {
		n, err := numbers(*idleConns, 200_000)
		if err != nil {
			return p, err
		}
		p.works = append(p.works, idleWorks(n...)...)
		p.works = append(p.works, sparseWorks(n...)...)
	}
	p.rounds = cmp.Or(max(*rounds, 0), p.rounds)
	matches, err := regexp.Compile(*run)
	if err != nil {
		return p, err
	}
	var works []work
	for _, w := range p.works {
		w.Duration = cmp.Or(*duration, time.Second)
		w.Rest = restTime
		if *short {
			w.Rest = w.Duration
		}
		if w.Duration <= 0 || w.Duration > time.Minute {
			return p, fmt.Errorf("a work cannot take %s", w.Duration)
		}
		if matches.MatchString(w.String()) {
			works = append(works, w)
		}
	}
	p.works = works

	p.libraries = libraries
	if *libs != "" {
		p.libraries = nil
		for name := range strings.SplitSeq(*libs, ",") {
			l, err := libraryByName(name)
			if err != nil {
				return p, err
			}
			p.libraries = append(p.libraries, l)
		}
	}
	if *list {
		for _, w := range p.works {
			fmt.Println(w)
		}
		for _, l := range p.libraries {
			fmt.Printf("%-14s %s\n", l.name, l.about)
		}
		return p, flag.ErrHelp
	}
	p.works = slices.DeleteFunc(p.works, func(w work) bool {
		err := w.fits()
		if err != nil {
			p.remarks = append(p.remarks, fmt.Sprintf("%s: left out: %v", w, err))
		}
		return err != nil
	})
	if p.noise = *noise; !(p.noise >= 0) {
		return p, fmt.Errorf("%g is not a percentage", p.noise)
	}
	if p.rounds < enoughRounds {
		p.remarks = append(p.remarks, fmt.Sprintf("fewer than %d rounds do not show how noisy the machine is", enoughRounds))
	} else if !slices.ContainsFunc(p.libraries, library.gauges) {
		p.libraries = append(p.libraries, libraries[slices.IndexFunc(libraries, library.gauges)])
	}
	if p.before != "" && !slices.ContainsFunc(p.libraries, func(l library) bool { return l.ours }) {
		return p, errors.New("-before needs one of our libraries")
	}
	return p, p.choosePins(*cpus)
}

// numbers parses a list of numbers from 1 to limit.
func numbers(list string, limit int) (all []int, err error) {
	for text := range strings.SplitSeq(list, ",") {
		n, err := strconv.Atoi(text)
		if err != nil || n < 1 || n > limit {
			return nil, fmt.Errorf("%q is not a number from 1 to %d", text, limit)
		}
		all = append(all, n)
	}
	return all, nil
}

// choosePins decides on processors, and notes where that is not possible.
func (p *plan) choosePins(cpus string) (err error) {
	if !canMeasure {
		p.remarks = append(p.remarks, "the processor time and the memory of the server are not known on this system")
	}
	if cpus != "" {
		server, load, _ := strings.Cut(cpus, ",")
		var err1, err2 error
		p.at.server, err1 = strconv.Atoi(server)
		p.at.load, err2 = strconv.Atoi(load)
		return errors.Join(err1, err2)
	}
	p.at.server, p.at.load, err = processors()
	if err != nil {
		p.at = pins{-1, -1}
		p.remarks = append(p.remarks, "server and load are not on processors of their own: "+err.Error())
	}
	return nil
}

// A result holds all samples of a library for a work.
type result struct {
	library library
	before  *result        // the same library in the other build, or nil
	rounds  map[int]sample // those that have succeeded
	err     error
}

// A comparison holds the results of all libraries for a work.
type comparison struct {
	work    work
	results []*result
}

// order returns the results in the order in which a round measures them. Nobody is always
// first. The two builds of a library are next to each other, so that they find the machine
// in the same state.
func (c *comparison) order(round int) []*result {
	turns := slices.DeleteFunc(slices.Clone(c.results), func(r *result) bool { return r.library.build != nil })
	var order []*result
	for i := range turns {
		r := turns[(i+round)%len(turns)]
		switch {
		case r.before == nil:
			order = append(order, r)
		case round%2 == 0:
			order = append(order, r.before, r)
		default:
			order = append(order, r, r.before)
		}
	}
	return order
}

// measure does all rounds. Within a round the libraries take turns with each work, so that
// what else the machine does, or how warm it is, concerns all of them. If ctx is done
// it returns what there is.
func (p *plan) measure(ctx context.Context) (all []*comparison, err error) {
	steps := 0
	for _, w := range p.works {
		c := &comparison{work: w}
		for _, l := range p.libraries {
			if !l.can(w) {
				continue
			}
			r := &result{library: l, rounds: make(map[int]sample)}
			if l.build != nil {
				c.results[len(c.results)-1].before = r
			}
			c.results = append(c.results, r)
		}
		if len(c.results) > 0 {
			all = append(all, c)
			steps += len(c.results) * p.rounds
		}
	}
	begin, done := time.Now(), 0
	for round := range p.rounds {
		for _, c := range all {
			for _, r := range c.order(round) {
				if r.err == nil {
					s, failure := measure(ctx, r.library, c.work, p.at)
					if ctx.Err() != nil {
						return all, errors.New("interrupted")
					}
					if r.err = failure; failure == nil {
						r.rounds[round] = s
					}
				}
				done++
				left := time.Since(begin) / time.Duration(done) * time.Duration(steps-done)
				fmt.Fprintf(os.Stderr, "%4d of %d, %s left, round %d: %s: %s\n",
					done, steps, left.Round(time.Second), round+1, c.work, r.last(round, c.work))
				if r.err != nil {
					err = errors.New("not everything could be measured")
				}
			}
		}
	}
	return all, err
}

// last describes what a step has yielded.
func (r *result) last(round int, w work) string {
	if r.err != nil {
		return fmt.Sprintf("%s fails: %v", r.library, r.err)
	}
	m := w.metric()
	return fmt.Sprintf("%s %s %s", r.library, number(r.rounds[round][m]), units[m])
}
