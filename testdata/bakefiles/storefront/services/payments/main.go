// Payments accepts card numbers that could exist.
package main

import (
	"crypto/rand"
	"net/http"

	"storefront/internal/money"
	"storefront/internal/reply"
	"storefront/internal/server"
)

func main() { server.Main("payments", routes) }

func routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /payments", func(w http.ResponseWriter, r *http.Request) {
		var p struct {
			Card   string
			Amount money.Cents
		}
		if !reply.Read(w, r, &p) {
			return
		}
		if p.Amount <= 0 || !luhn(p.Card) {
			reply.Error(w, http.StatusPaymentRequired, "declined")
			return
		}
		reply.JSON(w, http.StatusCreated, map[string]string{
			"id":     rand.Text(),
			"amount": p.Amount.String(),
		})
	})
}

// luhn checks the last digit of a card number, which depends on all the others.
func luhn(number string) bool {
	if len(number) < 12 {
		return false
	}
	sum := 0
	for i := range len(number) {
		d := int(number[len(number)-1-i] - '0')
		if d < 0 || d > 9 {
			return false
		}
		if i%2 == 1 {
			d *= 2
			if d > 9 {
				d -= 9
			}
		}
		sum += d
	}
	return sum%10 == 0
}
