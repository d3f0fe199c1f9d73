// Package goods knows what the shop sells.
package goods

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"slices"

	"storefront/internal/money"
)

// Product is one thing on sale.
type Product struct {
	SKU   string      `json:"sku"`
	Name  string      `json:"name"`
	Text  string      `json:"text"`
	Price money.Cents `json:"price"`
	Grams int         `json:"grams"`
	Stock int         `json:"stock"`
}

//go:embed goods.json
var file []byte

var all = func() []Product {
	var products []Product
	if err := json.Unmarshal(file, &products); err != nil {
		panic(fmt.Sprintf("goods.json: %v", err))
	}
	return products
}()

// All returns every product, in the order of the catalogue.
func All() []Product { return slices.Clone(all) }

// Find returns the product with a stock keeping unit.
func Find(sku string) (Product, bool) {
	i := slices.IndexFunc(all, func(p Product) bool { return p.SKU == sku })
	if i < 0 {
		return Product{}, false
	}
	return all[i], true
}
