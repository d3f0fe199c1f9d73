// Package money counts in cents.
package money

import "fmt"

// Cents is an amount of the shop's one currency.
type Cents int64

// Percent returns p per cent of c, rounded half away from zero.
func (c Cents) Percent(p int64) Cents {
	v := int64(c) * p
	if v < 0 {
		return Cents((v - 50) / 100)
	}
	return Cents((v + 50) / 100)
}

func (c Cents) String() string {
	sign := ""
	if c < 0 {
		sign, c = "-", -c
	}
	return fmt.Sprintf("%s%d.%02d", sign, int64(c)/100, int64(c)%100)
}
