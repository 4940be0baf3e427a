package demo

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"time"
)

// api is how the shop talks to Mercado Pago.
type api struct {
	egress, direct string
	client         *http.Client
}

func newAPI(egressURL, apiURL string) *api {
	return &api{egressURL, apiURL, &http.Client{
		Timeout:   15 * time.Second,
		Transport: &http.Transport{MaxIdleConnsPerHost: 8, IdleConnTimeout: time.Minute},
		// A token must not follow a redirect to somewhere else.
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}
}

// account is as much of /users/me as the shop shows.
type account struct {
	ID       int64  `json:"id"`
	Nickname string `json:"nickname"`
	Country  string `json:"country_id"`
}

// Initial is what a picture of the account shows.
func (a account) Initial() string {
	for _, letter := range a.Nickname {
		return string(letter)
	}
	return "·"
}

// payment is as much of a payment as the shop shows.
type payment struct {
	ID          int64   `json:"id"`
	Status      string  `json:"status"`
	Amount      float64 `json:"transaction_amount"`
	Currency    string  `json:"currency_id"`
	CollectorID int64   `json:"collector_id"`
}

// refusal is an answer that is not a success, as a problem document tells it.
type refusal struct {
	Status int    `json:"-"`
	Title  string `json:"title"`
	Detail string `json:"detail"`
}

func (r *refusal) Error() string {
	text := strconv.Itoa(r.Status) + " " + r.Title
	if r.Title == "" {
		text += http.StatusText(r.Status)
	}
	if r.Detail != "" {
		text += ". " + r.Detail
	}
	return text
}

// whose asks Mercado Pago itself, with the Authorization that came from Caddy.
func (a *api) whose(ctx context.Context, authorization string) (who account, err error) {
	return who, a.do(ctx, a.direct, http.MethodGet, "/users/me", http.Header{"Authorization": {authorization}}, nil, &who)
}

// payee asks whom a seller's payments go to, with no token.
func (a *api) payee(ctx context.Context, seller string) (who account, err error) {
	return who, a.do(ctx, a.egress, http.MethodGet, "/users/me", http.Header{"X-Seller": {seller}}, nil, &who)
}

// pay takes a payment for a seller, with no token. The order is its idempotency
// key: sent twice, it is paid once.
func (a *api) pay(ctx context.Context, seller, order string, total int, description string) (paid payment, err error) {
	header := http.Header{"X-Seller": {seller}, "X-Idempotency-Key": {order}, "Content-Type": {"application/json"}}
	return paid, a.do(ctx, a.egress, http.MethodPost, "/v1/payments", header, map[string]any{
		"transaction_amount": total,
		"description":        description,
		"payment_method_id":  "visa",
		"installments":       1,
		"token":              "a-card-token-from-the-buyers-browser",
		"payer":              map[string]any{"email": "buyer@example.com"},
	}, &paid)
}

// payment reads a payment of a seller, with no token.
func (a *api) payment(ctx context.Context, seller string, id int64) (paid payment, err error) {
	path := "/v1/payments/" + strconv.FormatInt(id, 10)
	return paid, a.do(ctx, a.egress, http.MethodGet, path, http.Header{"X-Seller": {seller}}, nil, &paid)
}

func (a *api) do(ctx context.Context, base, method, path string, header http.Header, body, answer any) error {
	var sent bytes.Buffer
	if body != nil {
		if err := json.NewEncoder(&sent).Encode(body); err != nil {
			return err
		}
	}
	request, err := http.NewRequestWithContext(ctx, method, base+path, &sent)
	if err != nil {
		return err
	}
	request.Header = header
	request.Header.Set("Accept", "application/json")
	response, err := a.client.Do(request)
	if err != nil {
		return err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(io.LimitReader(response.Body, 64<<10))
	if err != nil {
		return err
	}
	if response.StatusCode/100 != 2 {
		refused := &refusal{Status: response.StatusCode}
		_ = json.Unmarshal(text, refused) // what is no problem document has a status all the same
		return refused
	}
	if err := json.Unmarshal(text, answer); err != nil {
		return fmt.Errorf("reading the answer of %s: %w", path, err)
	}
	return nil
}
