package tokensource

import (
	"math"
	"time"
)

// instant is a time on the wall clock, in nanoseconds since 1970: a third of what
// a [time.Time] takes. 0 is no time, and 1 the first there is.
type instant int64

// instantOf returns the nearest instant there is.
func instantOf(t time.Time) instant {
	switch seconds := t.Unix(); {
	case t.IsZero():
		return 0
	case seconds < 0:
		return 1
	case seconds >= math.MaxInt64/int64(time.Second):
		return math.MaxInt64
	}
	return instant(t.UnixNano())
}

func (i instant) time() time.Time {
	if i == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(i)).UTC()
}

func (i instant) add(d time.Duration) instant { return i + instant(d) }

func (i instant) sub(other instant) time.Duration { return time.Duration(i - other) }

// moment is a time on the clock that nobody sets, in nanoseconds since the process
// began: how old what memory has is must not change with the wall clock.
type moment int64

var began = time.Now()

func momentOf(t time.Time) moment { return moment(t.Sub(began)) }

func (m moment) add(d time.Duration) moment { return m + moment(d) }
