// Catalog tells what the shop sells.
package main

import (
	"net/http"

	"storefront/internal/goods"
	"storefront/internal/reply"
	"storefront/internal/server"
)

func main() { server.Main("catalog", routes) }

func routes(mux *http.ServeMux) {
	mux.HandleFunc("GET /products", func(w http.ResponseWriter, _ *http.Request) {
		reply.JSON(w, http.StatusOK, goods.All())
	})
	mux.HandleFunc("GET /products/{sku}", func(w http.ResponseWriter, r *http.Request) {
		p, ok := goods.Find(r.PathValue("sku"))
		if !ok {
			reply.Error(w, http.StatusNotFound, "no such product")
			return
		}
		reply.JSON(w, http.StatusOK, p)
	})
}
