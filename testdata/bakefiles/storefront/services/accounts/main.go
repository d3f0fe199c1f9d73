// Accounts knows the customers, and their passwords only as hashes.
package main

import (
	"crypto/pbkdf2"
	"crypto/rand"
	"crypto/sha256"
	"crypto/subtle"
	"net/http"
	"sync"

	"storefront/internal/reply"
	"storefront/internal/server"
)

const rounds = 100_000

type login struct{ Email, Password string }

type account struct{ salt, hash []byte }

type accounts struct {
	mu      sync.Mutex
	byEmail map[string]account
}

func main() {
	a := &accounts{byEmail: map[string]account{}}
	server.Main("accounts", func(mux *http.ServeMux) {
		mux.HandleFunc("POST /accounts", a.create)
		mux.HandleFunc("POST /sessions", a.signIn)
	})
}

func (a *accounts) create(w http.ResponseWriter, r *http.Request) {
	var l login
	if !reply.Read(w, r, &l) {
		return
	}
	if len(l.Password) < 10 {
		reply.Error(w, http.StatusBadRequest, "a password needs ten characters")
		return
	}
	salt := []byte(rand.Text())
	hash, err := pbkdf2.Key(sha256.New, l.Password, salt, rounds, 32)
	if err != nil {
		reply.Error(w, http.StatusInternalServerError, "cannot hash the password")
		return
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	if _, ok := a.byEmail[l.Email]; ok {
		reply.Error(w, http.StatusConflict, "there is an account with this address")
		return
	}
	a.byEmail[l.Email] = account{salt, hash}
	reply.JSON(w, http.StatusCreated, map[string]string{"email": l.Email})
}

func (a *accounts) signIn(w http.ResponseWriter, r *http.Request) {
	var l login
	if !reply.Read(w, r, &l) {
		return
	}
	a.mu.Lock()
	known := a.byEmail[l.Email]
	a.mu.Unlock()
	// An unknown customer costs as much time as a wrong password.
	hash, err := pbkdf2.Key(sha256.New, l.Password, known.salt, rounds, 32)
	if err != nil || subtle.ConstantTimeCompare(hash, known.hash) != 1 {
		reply.Error(w, http.StatusUnauthorized, "wrong address or password")
		return
	}
	reply.JSON(w, http.StatusCreated, map[string]string{"token": rand.Text()})
}
