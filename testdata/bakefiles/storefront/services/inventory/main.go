// Inventory counts what is on the shelves.
package main

import (
	"net/http"
	"sync"

	"storefront/internal/goods"
	"storefront/internal/reply"
	"storefront/internal/server"
)

type shelves struct {
	mu    sync.Mutex
	stock map[string]int
}

func main() {
	s := &shelves{stock: map[string]int{}}
	for _, p := range goods.All() {
		s.stock[p.SKU] = p.Stock
	}
	server.Main("inventory", func(mux *http.ServeMux) {
		mux.HandleFunc("GET /stock/{sku}", s.show)
		mux.HandleFunc("POST /stock/{sku}/reserve", s.reserve)
	})
}

func (s *shelves) show(w http.ResponseWriter, r *http.Request) {
	s.mu.Lock()
	defer s.mu.Unlock()
	n, ok := s.stock[r.PathValue("sku")]
	if !ok {
		reply.Error(w, http.StatusNotFound, "no such product")
		return
	}
	reply.JSON(w, http.StatusOK, map[string]int{"available": n})
}

func (s *shelves) reserve(w http.ResponseWriter, r *http.Request) {
	var order struct{ Quantity int }
	if !reply.Read(w, r, &order) {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	sku := r.PathValue("sku")
	if order.Quantity <= 0 || s.stock[sku] < order.Quantity {
		reply.Error(w, http.StatusConflict, "not enough on the shelves")
		return
	}
	s.stock[sku] -= order.Quantity
	reply.JSON(w, http.StatusOK, map[string]int{"available": s.stock[sku]})
}
