package money

import "testing"

func TestCents(t *testing.T) {
	for amount, want := range map[Cents]string{0: "0.00", 5: "0.05", 1999: "19.99", -120: "-1.20"} {
		if got := amount.String(); got != want {
			t.Errorf("%d cents: %s, want %s", int64(amount), got, want)
		}
	}
	if got := Cents(1999).Percent(15); got != 300 {
		t.Errorf("15%% of 19.99: %s", got)
	}
	if got := Cents(-1999).Percent(15); got != -300 {
		t.Errorf("15%% of -19.99: %s", got)
	}
}
