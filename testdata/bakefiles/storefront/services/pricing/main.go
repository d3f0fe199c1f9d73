// Pricing says what a number of pieces costs, with a discount for many.
package main

import (
	"net/http"
	"strconv"

	"storefront/internal/goods"
	"storefront/internal/money"
	"storefront/internal/reply"
	"storefront/internal/server"
)

// discounts are in per cent, from the first quantity that earns them.
var discounts = []struct{ from, percent int64 }{{50, 15}, {10, 8}, {5, 3}}

func main() { server.Main("pricing", routes) }

func routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /prices/{sku}", func(w http.ResponseWriter, r *http.Request) {
		p, ok := goods.Find(r.PathValue("sku"))
		if !ok {
			reply.Error(w, http.StatusNotFound, "no such product")
			return
		}
		quantity := int64(1)
		if q := r.URL.Query().Get("quantity"); q != "" {
			n, err := strconv.ParseInt(q, 10, 32)
			if err != nil || n < 1 {
				reply.Error(w, http.StatusBadRequest, "quantity must be a positive number")
				return
			}
			quantity = n
		}
		total := price(p.Price, quantity)
		reply.JSON(w, http.StatusOK, map[string]any{"cents": total, "total": total.String()})
	})
}

func price(each money.Cents, quantity int64) money.Cents {
	total := each * money.Cents(quantity)
	for _, d := range discounts {
		if quantity >= d.from {
			return total - total.Percent(d.percent)
		}
	}
	return total
}
