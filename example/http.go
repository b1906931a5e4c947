package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/mail"

	"github.com/reprise-bus/reprise/store"
)

func (a *app) routes() http.Handler {
	mux := http.NewServeMux()
	mux.HandleFunc("POST /signup", a.postSignup)
	mux.HandleFunc("GET /runs", a.getRuns)
	mux.HandleFunc("POST /replay", a.postReplay)
	mux.HandleFunc("POST /mail/down", func(http.ResponseWriter, *http.Request) { a.mail.setDown(true) })
	mux.HandleFunc("POST /mail/up", func(http.ResponseWriter, *http.Request) { a.mail.setDown(false) })
	return mux
}

func (a *app) postSignup(w http.ResponseWriter, r *http.Request) {
	var request struct{ Email string }
	if err := json.NewDecoder(http.MaxBytesReader(w, r.Body, 4096)).Decode(&request); err != nil {
		http.Error(w, `want JSON such as {"email": "ada@example.com"}: `+err.Error(), http.StatusBadRequest)
		return
	}
	address, err := mail.ParseAddress(request.Email)
	if err != nil || address.Address != request.Email || len(request.Email) > 254 {
		http.Error(w, fmt.Sprintf("email %q: want an address such as ada@example.com", request.Email), http.StatusUnprocessableEntity)
		return
	}
	user, err := a.signUp(r.Context(), request.Email)
	if errors.Is(err, errTaken) {
		http.Error(w, err.Error(), http.StatusConflict)
		return
	}
	if err != nil {
		a.internalError(w, err)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(http.StatusCreated)
	json.NewEncoder(w).Encode(user)
}

func (a *app) getRuns(w http.ResponseWriter, r *http.Request) {
	runs, err := a.bus.Store().Runs(r.Context(), store.Filter{Topic: topic})
	if err != nil {
		a.internalError(w, err)
		return
	}
	printRuns(w, runs)
}

func (a *app) postReplay(w http.ResponseWriter, r *http.Request) {
	again, err := a.replay(r.Context(), "asked for over HTTP")
	if err != nil {
		a.internalError(w, err)
		return
	}
	fmt.Fprintf(w, "replay %d: failed runs that are due again: %d\n", again.ID, again.Taken)
}

func (a *app) internalError(w http.ResponseWriter, err error) {
	a.log.Error("request failed", "error", err)
	http.Error(w, "internal error: it is in the log", http.StatusInternalServerError)
}
