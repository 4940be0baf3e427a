package sandbox

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"
)

// caller is whose access token an API request came with.
type caller struct {
	lineKey
	account Account
}

// bearer is a request's access token: from the header, or old style from the
// query. The header wins.
func bearer(r *http.Request) (token string, inQuery bool) {
	if header := r.Header.Get("Authorization"); header != "" {
		scheme, token, _ := strings.Cut(header, " ")
		if strings.EqualFold(scheme, "Bearer") {
			return strings.TrimSpace(token), false
		}
	}
	query := r.URL.Query()
	return query.Get("access_token"), query.Has("access_token")
}

// authorized lets a request through to what needs an access token.
func (s *Sandbox) authorized(next func(*call, *http.Request, caller)) func(*call, *http.Request) {
	return func(c *call, r *http.Request) {
		c.api = true
		token, _ := bearer(r)
		c.entry.TokenInQuery = r.URL.Query().Has("access_token")
		if token == "" {
			const message = "Must provide your access_token to proceed"
			c.refuse(http.StatusUnauthorized, "unauthorized", message, cause{Code: 5, Description: message})
			return
		}
		who, note := s.caller(token)
		if note != "" {
			c.entry.Note = note
			c.refuse(http.StatusUnauthorized, "unauthorized", "invalid access token")
			return
		}
		c.entry.UserID, c.entry.ClientID = who.userID, who.clientID
		next(c, r, who)
	}
}

func (s *Sandbox) caller(token string) (who caller, note string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	a := s.ledger.accesses[token]
	switch {
	case a == nil:
		return caller{}, "unknown or revoked access token"
	case !s.now().Before(a.expires):
		return caller{}, "expired access token"
	}
	return caller{a.lineKey, s.ledger.accounts[a.userID]}, ""
}

var sites = map[string][2]string{ // country → site and currency
	"AR": {"MLA", "ARS"}, "BR": {"MLB", "BRL"}, "CL": {"MLC", "CLP"}, "CO": {"MCO", "COP"},
	"MX": {"MLM", "MXN"}, "PE": {"MPE", "PEN"}, "UY": {"MLU", "UYU"},
}

// me is GET /users/me.
func (s *Sandbox) me(c *call, _ *http.Request, who caller) {
	a := who.account
	c.answer(http.StatusOK, map[string]any{
		"id": a.UserID, "nickname": a.Nickname, "email": a.Email,
		"first_name": a.Name, "last_name": "",
		"country_id": a.Country, "site_id": sites[a.Country][0], "user_type": "normal",
		"tags": []string{"normal"}, "status": map[string]any{"site_status": "active"},
	})
}

// unlink is Mercado Libre's DELETE /users/{user}/applications/{application}.
func (s *Sandbox) unlink(c *call, r *http.Request, who caller) {
	if r.PathValue("user") != formatID(who.userID) || r.PathValue("application") != who.clientID {
		c.refuse(http.StatusForbidden, "forbidden", "Invalid caller.id")
		return
	}
	s.mu.Lock()
	s.ledger.revoke(who.userID, who.clientID)
	s.mu.Unlock()
	c.answer(http.StatusOK, map[string]any{
		"user_id": formatID(who.userID), "app_id": who.clientID, "msg": "Autorización eliminada",
	})
}

// payment is a payment that was made: what it answers, and whose it is.
type payment struct {
	collector int64
	key       string // of paymentKeys, "" without X-Idempotency-Key
	text      json.RawMessage
}

type preference struct {
	collector Account
	title     string
	amount    string
}

const timeFormat = "2006-01-02T15:04:05.000-07:00"

// createPayment is POST /v1/payments. Every payment is approved, and paid to
// whom the access token belongs.
func (s *Sandbox) createPayment(c *call, r *http.Request, who caller) {
	body, err := readObject(r)
	if err != nil {
		c.refuse(http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	amount, _ := body["transaction_amount"].(json.Number)
	if value, err := amount.Float64(); err != nil || value <= 0 {
		const message = "Invalid transaction_amount"
		c.refuse(http.StatusBadRequest, "bad_request", message, cause{Code: 4037, Description: message})
		return
	}
	key := ""
	if given := r.Header.Get("X-Idempotency-Key"); given != "" {
		key = formatID(who.userID) + " " + given
	}
	c.answer(http.StatusCreated, s.payOnce(who, body, amount, key))
}

// payOnce makes a payment, or finds the one that this idempotency key made.
func (s *Sandbox) payOnce(who caller, body map[string]any, amount json.Number, key string) json.RawMessage {
	s.mu.Lock()
	defer s.mu.Unlock()
	if key != "" {
		if earlier, made := s.ledger.payments.get(s.ledger.paymentKeys[key]); made {
			return earlier.text
		}
	}
	return s.pay(who, body, amount, key)
}

// pay makes a payment. The lock is held.
func (s *Sandbox) pay(who caller, body map[string]any, amount json.Number, key string) json.RawMessage {
	s.ledger.sequence++
	id, now := s.ledger.sequence, s.now().Format(timeFormat)
	answer := map[string]any{
		"id": id, "status": "approved", "status_detail": "accredited", "operation_type": "regular_payment",
		"date_created": now, "date_approved": now, "date_last_updated": now, "live_mode": who.live,
		"collector_id": who.userID, "collector": map[string]any{"id": who.userID, "nickname": who.account.Nickname},
		"transaction_amount": amount, "currency_id": sites[who.account.Country][1], "installments": 1,
		"payment_method_id": "visa", "payment_type_id": "credit_card", "captured": true,
		"sponsor_id": nil, "refunds": []any{}, "fee_details": []any{},
	}
	for _, name := range []string{
		"description", "application_fee", "external_reference", "installments", "payment_method_id", "metadata",
		"payer", "notification_url", "statement_descriptor", "additional_info",
	} {
		if value, given := body[name]; given {
			answer[name] = value
		}
	}
	if fee, given := body["application_fee"]; given {
		answer["fee_details"] = []any{map[string]any{"type": "application_fee", "amount": fee, "fee_payer": "collector"}}
	}
	text, err := json.Marshal(answer)
	if err != nil {
		text = json.RawMessage(`{}`)
	}
	made := &payment{collector: who.userID, key: key, text: text}
	if forgotten := s.ledger.payments.add(formatID(id), made); forgotten != nil {
		delete(s.ledger.paymentKeys, forgotten.key)
	}
	if key != "" {
		s.ledger.paymentKeys[key] = formatID(id)
	}
	s.journal.stats.Payments++
	return text
}

// getPayment is GET /v1/payments/{id}, for its collector only.
func (s *Sandbox) getPayment(c *call, r *http.Request, who caller) {
	s.mu.Lock()
	found, ok := s.ledger.payments.get(r.PathValue("id"))
	s.mu.Unlock()
	if !ok || found.collector != who.userID {
		c.refuse(http.StatusNotFound, "not_found", "Payment not found", cause{Code: 2000, Description: "Payment not found"})
		return
	}
	c.answer(http.StatusOK, found.text)
}

// createPreference is POST /checkout/preferences.
func (s *Sandbox) createPreference(c *call, r *http.Request, who caller) {
	body, err := readObject(r)
	if err != nil {
		c.refuse(http.StatusBadRequest, "bad_request", err.Error())
		return
	}
	items, _ := body["items"].([]any)
	if len(items) == 0 {
		c.refuse(http.StatusBadRequest, "invalid_items", "items needed")
		return
	}
	id := formatID(who.userID) + "-" + randomHex(16)
	first, _ := items[0].(map[string]any)
	made := &preference{collector: who.account, amount: total(items) + " " + sites[who.account.Country][1]}
	made.title, _ = first["title"].(string)
	s.mu.Lock()
	s.ledger.preferences.add(id, made)
	s.mu.Unlock()
	point := (&url.URL{
		Scheme: scheme(r), Host: r.Host, Path: "/checkout/v1/redirect", RawQuery: url.Values{"pref_id": {id}}.Encode(),
	}).String()
	body["id"], body["collector_id"], body["client_id"] = id, who.userID, who.clientID
	body["init_point"], body["sandbox_init_point"] = point, point
	body["date_created"] = s.now().Format(timeFormat)
	c.answer(http.StatusCreated, body)
}

func total(items []any) string {
	sum := 0.0
	for _, item := range items {
		fields, _ := item.(map[string]any)
		price, _ := fields["unit_price"].(json.Number)
		quantity, _ := fields["quantity"].(json.Number)
		each, _ := price.Float64()
		count, err := quantity.Float64()
		if err != nil {
			count = 1
		}
		sum += each * count
	}
	return fmt.Sprintf("%.2f", sum)
}

var errObject = errors.New("the body is not a JSON object")

func readObject(r *http.Request) (map[string]any, error) {
	text, err := io.ReadAll(io.LimitReader(r.Body, maxBodyBytes+1))
	if err != nil || len(text) > maxBodyBytes {
		return nil, errObject
	}
	var body map[string]any
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.UseNumber()
	if err := decoder.Decode(&body); err != nil || body == nil {
		return nil, errObject
	}
	return body, nil
}

func scheme(r *http.Request) string {
	if r.TLS != nil {
		return "https"
	}
	return "http"
}
