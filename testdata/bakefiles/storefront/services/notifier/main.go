// Notifier writes the letters that customers get.
package main

import (
	"net/http"
	"strings"
	"text/template"

	"storefront/internal/reply"
	"storefront/internal/server"
)

var letters = template.Must(template.New("").Parse(`
{{define "welcome"}}Dear {{.Name}}, your account is ready. The kettle is on.{{end}}
{{define "order"}}Dear {{.Name}}, thank you. Your order of {{.Total}} will leave us tomorrow.{{end}}
{{define "shipped"}}Dear {{.Name}}, your parcel is on its way: {{.Tracking}}.{{end}}
`))

func main() { server.Main("notifier", routes) }

func routes(mux *http.ServeMux) {
	mux.HandleFunc("POST /letters/{kind}", func(w http.ResponseWriter, r *http.Request) {
		letter := letters.Lookup(r.PathValue("kind"))
		if letter == nil {
			reply.Error(w, http.StatusNotFound, "no such letter")
			return
		}
		var values map[string]string
		if !reply.Read(w, r, &values) {
			return
		}
		var text strings.Builder
		if err := letter.Execute(&text, values); err != nil {
			reply.Error(w, http.StatusBadRequest, err.Error())
			return
		}
		reply.JSON(w, http.StatusOK, map[string]string{"text": text.String()})
	})
}
