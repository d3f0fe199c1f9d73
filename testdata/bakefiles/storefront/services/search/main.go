// Search finds products by the words of their descriptions.
package main

import (
	"net/http"
	"slices"
	"strings"
	"unicode"

	"storefront/internal/goods"
	"storefront/internal/reply"
	"storefront/internal/server"
)

type index map[string][]string // products by word

func main() {
	idx := index{}
	for _, p := range goods.All() {
		for _, word := range words(p.Name + " " + p.Text) {
			if !slices.Contains(idx[word], p.SKU) {
				idx[word] = append(idx[word], p.SKU)
			}
		}
	}
	server.Main("search", func(mux *http.ServeMux) {
		mux.HandleFunc("GET /search", func(w http.ResponseWriter, r *http.Request) {
			reply.JSON(w, http.StatusOK, idx.find(r.URL.Query().Get("q")))
		})
	})
}

// find returns the products that have all the words of a query.
func (idx index) find(query string) []string {
	found := []string{}
	for i, word := range words(query) {
		if i == 0 {
			found = slices.Clone(idx[word])
			continue
		}
		found = slices.DeleteFunc(found, func(sku string) bool { return !slices.Contains(idx[word], sku) })
	}
	return found
}

func words(text string) []string {
	return strings.FieldsFunc(strings.ToLower(text), func(r rune) bool {
		return !unicode.IsLetter(r) && !unicode.IsDigit(r)
	})
}
