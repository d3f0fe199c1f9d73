// Package reply reads requests and writes responses as JSON.
package reply

import (
	"encoding/json"
	"net/http"
)

// JSON writes a value.
func JSON(w http.ResponseWriter, status int, v any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	// The client may be gone; there is nobody else to tell.
	_ = json.NewEncoder(w).Encode(v)
}

// Error writes a problem.
func Error(w http.ResponseWriter, status int, problem string) {
	JSON(w, status, map[string]string{"error": problem})
}

// Read decodes the body of a request into v. When it cannot, it answers the request
// and returns false.
func Read(w http.ResponseWriter, r *http.Request, v any) bool {
	d := json.NewDecoder(http.MaxBytesReader(w, r.Body, 1<<20))
	d.DisallowUnknownFields()
	if err := d.Decode(v); err != nil {
		Error(w, http.StatusBadRequest, err.Error())
		return false
	}
	return true
}
