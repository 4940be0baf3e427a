package main

import (
	"fmt"
	"math"
	"strconv"
	"strings"
	"time"
)

// times writes a ratio.
func times(ratio float64) string { return fmt.Sprintf("%.3f×", ratio) }

// spreadText writes where four fifths of the rounds lie.
func spreadText(s spread) string { return fmt.Sprintf("%.3f–%.3f", s.Low, s.High) }

// judge says whether a target was met. It is held against the median as it is
// printed.
func judge(measured, target float64) string {
	if target == 0 {
		return "—"
	}
	return verdict(math.Round(measured*1000) <= math.Round(target*1000), fmt.Sprintf("≤ %g", target))
}

// judgeBelow and judgeAbove are judge for what is no ratio, and for what is to be
// high.
func judgeBelow(measured, target float64, text string) string {
	return verdict(measured < target, "< "+text)
}

func judgeAbove(measured, target float64) string {
	return verdict(math.Round(measured*1000) >= math.Round(target*1000), fmt.Sprintf("≥ %g", target))
}

func verdict(met bool, target string) string {
	if met {
		return target + ": met"
	}
	return target + ": **missed**"
}

func percent(part float64) float64 { return part * 100 }

// minutes writes how long a run took.
func minutes(d time.Duration) string {
	if d < 90*time.Second {
		return fmt.Sprintf("%.0f seconds", d.Seconds())
	}
	return fmt.Sprintf("%.0f minutes", d.Minutes())
}

// rounded writes a number with three digits that say something, thousands apart.
func rounded(value float64) string {
	switch {
	case value >= 1000:
		return count(int(math.Round(value)))
	case value >= 100:
		return strconv.FormatFloat(value, 'f', 0, 64)
	case value >= 10:
		return strconv.FormatFloat(value, 'f', 1, 64)
	}
	return strconv.FormatFloat(value, 'f', 2, 64)
}

// count writes a whole number with its thousands apart.
func count(n int) string {
	digits := strconv.Itoa(n)
	var text strings.Builder
	for i, digit := range digits {
		if i > 0 && (len(digits)-i)%3 == 0 && digits[i-1] != '-' {
			text.WriteByte(',')
		}
		text.WriteRune(digit)
	}
	return text.String()
}

// plural writes how many there are of something.
func plural(n int, what string) string {
	if n != 1 {
		what += "s"
	}
	return count(n) + " " + what
}

// bytesOf writes an amount of memory.
func bytesOf(n float64) string {
	for _, unit := range []string{"bytes", "KiB", "MiB"} {
		if math.Abs(n) < 1024 {
			return rounded(n) + " " + unit
		}
		n /= 1024
	}
	return rounded(n) + " GiB"
}

// ms writes a time in milliseconds.
func ms(d time.Duration) string { return rounded(float64(d)/1e6) + " ms" }
