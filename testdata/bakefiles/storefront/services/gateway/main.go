// Gateway is the door of the shop: it passes each request on to the service that
// answers it.
package main

import (
	"log"
	"net/http"
	"net/http/httputil"
	"net/url"
	"strings"

	"storefront/internal/server"
)

// routes are prefix=service pairs; ROUTES replaces them.
const routes = "/products=catalog /stock=inventory /prices=pricing /carts=cart /orders=checkout " +
	"/payments=payments /accounts=accounts /sessions=accounts /search=search /quotes=shipping /letters=notifier"

func main() {
	server.Main("gateway", func(mux *http.ServeMux) {
		for _, route := range strings.Fields(server.Env("ROUTES", routes)) {
			prefix, service, ok := strings.Cut(route, "=")
			if !ok {
				log.Fatalf("ROUTES: %q is not prefix=service", route)
			}
			target := &url.URL{Scheme: "http", Host: service}
			if target.Port() == "" {
				target.Host += ":8080"
			}
			proxy := &httputil.ReverseProxy{Rewrite: func(r *httputil.ProxyRequest) {
				r.SetURL(target)
				r.SetXForwarded()
			}}
			mux.Handle(prefix, proxy)
			mux.Handle(prefix+"/", proxy)
		}
	})
}
