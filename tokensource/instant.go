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

// second is an instant to the second, rounded down, in half the space. 0 is no time,
// 1 stands for all that is earlier, and the last one, in 2106, for all that is later.
type second uint32

func (i instant) second() second {
	if i == 0 {
		return 0
	}
	return second(min(max(i/instant(time.Second), 1), math.MaxUint32))
}

// moment is a time on the clock that nobody sets, in nanoseconds since the process
// began: how old what memory has is must not change with the wall clock.
type moment int64

var began = time.Now()

func momentOf(t time.Time) moment { return moment(t.Sub(began)) }

func (m moment) time() time.Time { return began.Add(time.Duration(m)) }

func (m moment) add(d time.Duration) moment { return m + moment(d) }

// span is how much later than another a moment is, in whole milliseconds, rounded
// down: what is believed for a while is never believed for longer.
type span uint32

func (m moment) since(earlier moment) span { return span((m - earlier) / moment(time.Millisecond)) }

func (m moment) after(s span) moment { return m.add(time.Duration(s) * time.Millisecond) }
