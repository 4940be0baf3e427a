package main

import (
	"bufio"
	"bytes"
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
)

// part is one search. One run of it takes some minutes.
type part struct {
	name string
	// folder is where it runs, below the repository.
	folder string
	// env says how much one run searches.
	env []string
	// args are those of go.
	args []string
	// runs is how many runs the part is worth in a soak: of two parts, the one
	// that has made the smaller share of its runs is next.
	runs int
}

// test returns the arguments that run one test, or one fuzz target for some time.
func test(args ...string) []string {
	return append([]string{"test", "-count", "1", "-timeout", "0", "-v"}, args...)
}

// searches are the parts but for the fuzz targets, which are found in the code.
var searches = []part{
	{
		name: "interleavings", folder: ".", runs: 1000, env: []string{"MODEL_CHECKS=1500"},
		args: test("-run", "^TestNoInterleavingLosesASeller$", "./tokensource/"),
	},
	{
		name: "requests", folder: ".", runs: 100, env: []string{"REQUESTS=100000"},
		args: test("-run", "^TestEveryAnswerIsTheRightSellersOrAnError$", "."),
	},
	{
		name: "kills", folder: "e2e", runs: 100, env: []string{"KILLS=50"},
		args: test("-run", "^TestNoSellerIsLostToKills$", "."),
	},
	{
		name: "faults", folder: "e2e", runs: 10, env: []string{"FAULTS=all"},
		args: test("-run", "^TestNoFaultLosesASeller$", "."),
	},
	{
		name: "three instances", folder: "e2e", runs: 10, env: []string{"SELLERS=50000"},
		args: test("-run", "^TestThreeInstancesOnOneDatabaseKeepTheirPromisesThroughEverything$", "."),
	},
	{
		name: "moves", folder: ".", runs: 50, env: []string{"MOVES=20", "CRASHES=all"},
		args: test("-run", "^(TestMovingWhileAFleetServesLosesNobody|TestACrashAtAnyOperationLosesNothing)$", "./tokenstore/copying/"),
	},
	{
		name: "an hour of faults", folder: ".", runs: 10,
		args: test("-run", "^TestAnHourOfFaultsLeavesNothingBehind$", "./tokensource/"),
	},
}

// fuzzRuns is how many runs each fuzz target is worth in a soak; fuzzTime is how
// long one takes.
const (
	fuzzRuns = 20
	fuzzTime = "1m"
)

var fuzzTarget = regexp.MustCompile(`(?m)^func (Fuzz\w+)\(`)

// partsOf returns the parts whose names match a pattern.
func partsOf(root, only string) ([]part, error) {
	wanted, err := regexp.Compile(only)
	if err != nil {
		return nil, err
	}
	all := append([]part(nil), searches...)
	for _, pattern := range []string{"*_test.go", "*/*_test.go", "*/*/*_test.go"} {
		files, err := filepath.Glob(filepath.Join(root, pattern))
		if err != nil {
			return nil, err
		}
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				return nil, err
			}
			folder, err := filepath.Rel(root, filepath.Dir(file))
			if err != nil {
				return nil, err
			}
			for _, target := range fuzzTarget.FindAllSubmatch(text, -1) {
				name := string(target[1])
				all = append(all, part{
					name: "fuzz " + name, folder: folder, runs: fuzzRuns,
					args: test("-run", "^$", "-fuzz", "^"+name+"$", "-fuzztime", fuzzTime, "."),
				})
			}
		}
	}
	var parts []part
	for _, p := range all {
		if wanted.MatchString(p.name) {
			parts = append(parts, p)
		}
	}
	if len(parts) == 0 {
		return nil, fmt.Errorf("no part matches %q", only)
	}
	return parts, nil
}

// repeat is the command that runs the part with a seed, for people.
func (p part) repeat(seed string) string {
	words := append([]string{"cd " + p.folder + " &&", "TEST_SEED=" + strconv.Quote(seed)}, p.env...)
	words = append(words, "go")
	for _, arg := range p.args {
		if strings.ContainsAny(arg, "^$") {
			arg = "'" + arg + "'"
		}
		words = append(words, arg)
	}
	return strings.Join(words, " ")
}

// goCommand runs a part.
func goCommand(ctx context.Context, root string, p part, seed string) ([]byte, error) {
	command := exec.CommandContext(ctx, "go", p.args...) //nolint:gosec // the parts are listed above
	command.Dir = filepath.Join(root, p.folder)
	command.Env = append(append(os.Environ(), p.env...), "TEST_SEED="+seed)
	return command.CombinedOutput()
}

var (
	searchedLine = regexp.MustCompile(`\bsearched (\d+) ([a-z ]+)$`)
	fuzzedLine   = regexp.MustCompile(`^fuzz: elapsed: .*, execs: (\d+) `)
)

// searched adds up what a run says that it has searched, by what it was.
func searched(output []byte) map[string]int64 {
	totals := make(map[string]int64)
	var fuzzed int64
	lines := bufio.NewScanner(bytes.NewReader(output))
	lines.Buffer(nil, 16<<20)
	for lines.Scan() {
		line := strings.TrimSpace(lines.Text())
		if m := searchedLine.FindStringSubmatch(line); m != nil {
			n, _ := strconv.ParseInt(m[1], 10, 64)
			totals[m[2]] += n
		}
		if m := fuzzedLine.FindStringSubmatch(line); m != nil {
			fuzzed, _ = strconv.ParseInt(m[1], 10, 64) // each line is the total so far
		}
	}
	if fuzzed > 0 {
		totals["fuzz executions"] = fuzzed
	}
	return totals
}
