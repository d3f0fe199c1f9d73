// Reviews collects what customers think.
package main

import (
	"net/http"
	"sync"

	"storefront/internal/goods"
	"storefront/internal/reply"
	"storefront/internal/server"
)

type review struct {
	Stars int    `json:"stars"`
	Text  string `json:"text"`
}

type reviews struct {
	mu    sync.Mutex
	bySKU map[string][]review
}

func main() {
	rs := &reviews{bySKU: map[string][]review{}}
	server.Main("reviews", func(mux *http.ServeMux) {
		mux.HandleFunc("GET /products/{sku}/reviews", rs.list)
		mux.HandleFunc("POST /products/{sku}/reviews", rs.add)
	})
}

func (rs *reviews) list(w http.ResponseWriter, r *http.Request) {
	rs.mu.Lock()
	defer rs.mu.Unlock()
	list := rs.bySKU[r.PathValue("sku")]
	average := 0.0
	for _, rev := range list {
		average += float64(rev.Stars) / float64(len(list))
	}
	reply.JSON(w, http.StatusOK, map[string]any{"average": average, "reviews": list})
}

func (rs *reviews) add(w http.ResponseWriter, r *http.Request) {
	var rev review
	if !reply.Read(w, r, &rev) {
		return
	}
	sku := r.PathValue("sku")
	if _, ok := goods.Find(sku); !ok || rev.Stars < 1 || rev.Stars > 5 {
		reply.Error(w, http.StatusBadRequest, "one to five stars for a product we sell, please")
		return
	}
	rs.mu.Lock()
	defer rs.mu.Unlock()
	rs.bySKU[sku] = append(rs.bySKU[sku], rev)
	w.WriteHeader(http.StatusCreated)
}
