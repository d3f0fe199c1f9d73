// Shipping quotes what a parcel costs.
package main

import (
	"net/http"
	"strconv"

	"storefront/internal/money"
	"storefront/internal/reply"
	"storefront/internal/server"
)

// zones are by country; all others are in the last one.
var zones = map[string]int{"NL": 0, "BE": 0, "DE": 1, "FR": 1, "GB": 2, "US": 2}

// rates are by zone: for the parcel, and for each started kilogram.
var rates = []struct{ parcel, kilogram money.Cents }{{395, 60}, {690, 110}, {1490, 420}, {2290, 780}}

func main() { server.Main("shipping", routes) }

func routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /quotes", func(w http.ResponseWriter, r *http.Request) {
		grams, err := strconv.Atoi(r.URL.Query().Get("grams"))
		if err != nil || grams <= 0 {
			reply.Error(w, http.StatusBadRequest, "grams must be a positive number")
			return
		}
		cost := quote(r.URL.Query().Get("country"), grams)
		reply.JSON(w, http.StatusOK, map[string]any{"cents": cost, "cost": cost.String()})
	})
}

func quote(country string, grams int) money.Cents {
	zone, ok := zones[country]
	if !ok {
		zone = len(rates) - 1
	}
	kilograms := (grams + 999) / 1000
	return rates[zone].parcel + rates[zone].kilogram*money.Cents(kilograms)
}
