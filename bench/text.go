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
	verdict := "met"
	if math.Round(measured*1000) > math.Round(target*1000) {
		verdict = "**missed**"
	}
	return fmt.Sprintf("≤ %g: %s", target, verdict)
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
