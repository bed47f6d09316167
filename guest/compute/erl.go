package compute

// Edge rate limiting: counters and penalty boxes have names, no handles, and are
// shared by all sandboxes of the program.

var erlCalls = map[string]hostcall{
	"check_rate":               erlCheckRate,
	"ratecounter_increment":    erlRateCounterIncrement,
	"ratecounter_lookup_rate":  erlRateCounterLookupRate,
	"ratecounter_lookup_count": erlRateCounterLookupCount,
	"penaltybox_add":           erlPenaltyBoxAdd,
	"penaltybox_has":           erlPenaltyBoxHas,
}

// names are the texts of parameters i to i+3.
func (c *call) names(i int) (of, entry string, st status) {
	if of, st = c.text(i); st == statusOK {
		entry, st = c.text(i + 2)
	}
	return of, entry, st
}

// erlCheckRate counts and judges at once.
func erlCheckRate(c *call) status {
	counter, entry, st := c.names(0)
	if st != statusOK {
		return st
	}
	box, st := c.text(7)
	if st != statusOK {
		return st
	}
	blocked, err := c.stores().Rates.Check(counter, entry, c.u32(4), c.u32(5), c.u32(6), box, c.u32(9))
	return c.putBool(10, blocked, err)
}

// putBool writes 1 or 0, unless the arguments were wrong.
func (c *call) putBool(i int, yes bool, err error) status {
	n := uint32(0)
	if yes {
		n = 1
	}
	return c.putCount(i, n, err)
}

// putCount writes a number, unless the arguments were wrong.
func (c *call) putCount(i int, n uint32, err error) status {
	if err != nil {
		return statusInvalid
	}
	return c.put32(i, n)
}

func erlRateCounterIncrement(c *call) status {
	counter, entry, st := c.names(0)
	if st != statusOK {
		return st
	}
	if c.stores().Rates.Increment(counter, entry, c.u32(4)) != nil {
		return statusInvalid
	}
	return statusOK
}

func erlRateCounterLookupRate(c *call) status {
	counter, entry, st := c.names(0)
	if st != statusOK {
		return st
	}
	rate, err := c.stores().Rates.Rate(counter, entry, c.u32(4))
	return c.putCount(5, rate, err)
}

func erlRateCounterLookupCount(c *call) status {
	counter, entry, st := c.names(0)
	if st != statusOK {
		return st
	}
	count, err := c.stores().Rates.Count(counter, entry, c.u32(4))
	return c.putCount(5, count, err)
}

func erlPenaltyBoxAdd(c *call) status {
	box, entry, st := c.names(0)
	if st != statusOK {
		return st
	}
	if c.stores().Rates.Punish(box, entry, c.u32(4)) != nil {
		return statusInvalid
	}
	return statusOK
}

func erlPenaltyBoxHas(c *call) status {
	box, entry, st := c.names(0)
	if st != statusOK {
		return st
	}
	in, err := c.stores().Rates.Punished(box, entry)
	return c.putBool(4, in, err)
}
