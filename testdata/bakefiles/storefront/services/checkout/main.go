// Checkout turns a cart into an order: it reserves the goods and adds up the prices.
package main

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"time"

	"storefront/internal/money"
	"storefront/internal/reply"
	"storefront/internal/server"
)

type shop struct {
	client             http.Client
	inventory, pricing string
}

type order struct {
	Total string         `json:"total"`
	Items map[string]int `json:"items"`
}

func main() {
	s := &shop{
		client:    http.Client{Timeout: 5 * time.Second},
		inventory: server.Env("INVENTORY_URL", "http://inventory:8080"),
		pricing:   server.Env("PRICING_URL", "http://pricing:8080"),
	}
	server.Main("checkout", func(mux *http.ServeMux) { mux.HandleFunc("POST /orders", s.place) })
}

func (s *shop) place(w http.ResponseWriter, r *http.Request) {
	var o order
	if !reply.Read(w, r, &o.Items) {
		return
	}
	var total money.Cents
	for _, sku := range slices.Sorted(maps.Keys(o.Items)) {
		cents, err := s.buy(r.Context(), sku, o.Items[sku])
		if err != nil {
			reply.Error(w, http.StatusConflict, err.Error())
			return
		}
		total += cents
	}
	o.Total = total.String()
	reply.JSON(w, http.StatusCreated, o)
}

func (s *shop) buy(ctx context.Context, sku string, quantity int) (money.Cents, error) {
	body, err := json.Marshal(map[string]int{"Quantity": quantity})
	if err != nil {
		return 0, err
	}
	if err := s.call(ctx, http.MethodPost, s.inventory+"/stock/"+sku+"/reserve", body, nil); err != nil {
		return 0, fmt.Errorf("reserve %d of %s: %w", quantity, sku, err)
	}
	var price struct{ Cents money.Cents }
	if err := s.call(ctx, http.MethodGet, fmt.Sprintf("%s/prices/%s?quantity=%d", s.pricing, sku, quantity), nil, &price); err != nil {
		return 0, fmt.Errorf("price of %s: %w", sku, err)
	}
	return price.Cents, nil
}

func (s *shop) call(ctx context.Context, method, url string, body []byte, result any) error {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return err
	}
	resp, err := s.client.Do(req)
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("%s", resp.Status)
	}
	if result == nil {
		return nil
	}
	return json.NewDecoder(resp.Body).Decode(result)
}
