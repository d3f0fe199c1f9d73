// Cart remembers what customers want to buy.
package main

import (
	"net/http"
	"sync"

	"storefront/internal/goods"
	"storefront/internal/reply"
	"storefront/internal/server"
)

type carts struct {
	mu    sync.Mutex
	items map[string]map[string]int // by cart and product
}

func main() {
	c := &carts{items: map[string]map[string]int{}}
	server.Main("cart", func(mux *http.ServeMux) {
		mux.HandleFunc("GET /carts/{cart}", c.show)
		mux.HandleFunc("PUT /carts/{cart}/items/{sku}", c.put)
		mux.HandleFunc("DELETE /carts/{cart}", c.empty)
	})
}

func (c *carts) show(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	reply.JSON(w, http.StatusOK, c.items[r.PathValue("cart")])
}

func (c *carts) put(w http.ResponseWriter, r *http.Request) {
	var item struct{ Quantity int }
	if !reply.Read(w, r, &item) {
		return
	}
	sku := r.PathValue("sku")
	if _, ok := goods.Find(sku); !ok {
		reply.Error(w, http.StatusNotFound, "no such product")
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	id := r.PathValue("cart")
	if c.items[id] == nil {
		c.items[id] = map[string]int{}
	}
	if item.Quantity > 0 {
		c.items[id][sku] = item.Quantity
	} else {
		delete(c.items[id], sku)
	}
	reply.JSON(w, http.StatusOK, c.items[id])
}

func (c *carts) empty(w http.ResponseWriter, r *http.Request) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.items, r.PathValue("cart"))
	w.WriteHeader(http.StatusNoContent)
}
