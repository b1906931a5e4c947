package cli

import (
	"fmt"
	"regexp"
	"strconv"
)

// rate is a flag: a number of runs per second.
type rate float64

var rateSyntax = regexp.MustCompile(`^(\d{1,9}(?:\.\d{1,9})?)(?:/([smh]))?$`)

func (r *rate) Set(text string) (err error) {
	*r, err = parseRate(text)
	return err
}

func (r *rate) String() string {
	if *r == 0 {
		return ""
	}
	return rateText(float64(*r))
}

func (r *rate) Type() string { return "rate" }

// parseRate reads 50/s, 50, 600/m or 1000/h.
func parseRate(text string) (rate, error) {
	part := rateSyntax.FindStringSubmatch(text)
	if part != nil {
		n, err := strconv.ParseFloat(part[1], 64)
		if err == nil && n > 0 {
			return rate(n / map[string]float64{"": 1, "s": 1, "m": 60, "h": 3600}[part[2]]), nil
		}
	}
	return 0, fmt.Errorf("rate %q: want runs per second, minute or hour, such as 50/s, 600/m or 1000/h; leave it out for all at once", text)
}

// rateText returns a rate for people, in a readable unit.
func rateText(perSecond float64) string {
	switch {
	case perSecond == 0:
		return "all at once"
	case perSecond >= 1:
		return fmt.Sprintf("%.4g/s", perSecond)
	case perSecond*60 >= 1:
		return fmt.Sprintf("%.4g/m", perSecond*60)
	}
	return fmt.Sprintf("%.4g/h", perSecond*3600)
}
