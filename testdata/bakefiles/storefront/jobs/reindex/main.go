// Reindex asks the search service for every product and reports those that it does
// not find by their own names.
package main

import (
	"encoding/json"
	"flag"
	"fmt"
	"net/http"
	"net/url"
	"os"
	"slices"

	"storefront/internal/goods"
	"storefront/internal/server"
)

func main() {
	version := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *version {
		fmt.Println("reindex", server.Version)
		return
	}
	missing := 0
	for _, p := range goods.All() {
		found, err := search(server.Env("SEARCH_URL", "http://search:8080"), p.Name)
		if err != nil {
			fmt.Fprintln(os.Stderr, "reindex:", err)
			os.Exit(1)
		}
		if !slices.Contains(found, p.SKU) {
			fmt.Println("not found by its name:", p.SKU)
			missing++
		}
	}
	if missing > 0 {
		os.Exit(1)
	}
}

func search(base, query string) ([]string, error) {
	resp, err := http.Get(base + "/search?q=" + url.QueryEscape(query))
	if err != nil {
		return nil, err
	}
	defer resp.Body.Close()
	var found []string
	if err := json.NewDecoder(resp.Body).Decode(&found); err != nil {
		return nil, fmt.Errorf("answer to %q: %w", query, err)
	}
	return found, nil
}
