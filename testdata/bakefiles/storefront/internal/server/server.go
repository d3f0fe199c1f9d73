// Package server runs the HTTP server that every service of the shop is.
package server

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"
)

// Version is set by the linker.
var Version = "dev"

// Main serves the routes until the process is asked to end. It adds /healthz, and
// the flag -version, which prints the version and exits.
func Main(name string, routes func(*http.ServeMux)) {
	version := flag.Bool("version", false, "print the version and exit")
	flag.Parse()
	if *version {
		fmt.Println(name, Version)
		return
	}
	log := slog.New(slog.NewJSONHandler(os.Stderr, nil)).With("service", name, "version", Version)
	if err := serve(log, routes); err != nil {
		log.Error("stopped", "error", err)
		os.Exit(1)
	}
}

func serve(log *slog.Logger, routes func(*http.ServeMux)) error {
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGINT, syscall.SIGTERM)
	defer stop()

	mux := http.NewServeMux()
	mux.HandleFunc("GET /healthz", func(w http.ResponseWriter, _ *http.Request) {
		fmt.Fprintln(w, "ok", Version)
	})
	routes(mux)
	s := &http.Server{Addr: Env("LISTEN", ":8080"), Handler: logged(log, mux), ReadHeaderTimeout: 5 * time.Second}

	ended := make(chan error, 1)
	go func() { ended <- s.ListenAndServe() }()
	log.Info("listening", "address", s.Addr)
	select {
	case err := <-ended:
		return err
	case <-ctx.Done():
	}
	grace, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := s.Shutdown(grace); err != nil && !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	log.Info("bye")
	return nil
}

func logged(log *slog.Logger, next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		start := time.Now()
		next.ServeHTTP(w, r)
		log.Info("request", "method", r.Method, "path", r.URL.Path, "took", time.Since(start))
	})
}

// Env returns an environment variable, or the fallback when it is not set.
func Env(name, fallback string) string {
	if v, ok := os.LookupEnv(name); ok {
		return v
	}
	return fallback
}
