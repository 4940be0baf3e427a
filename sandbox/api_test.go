package sandbox_test

import (
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

func (b *bench) pay(token, idempotencyKey, body string) (int, answer) {
	b.t.Helper()
	request, err := http.NewRequest("POST", b.url+"/v1/payments", strings.NewReader(body))
	require.NoError(b.t, err)
	request.Header.Set("Authorization", "Bearer "+token)
	if idempotencyKey != "" {
		request.Header.Set("X-Idempotency-Key", idempotencyKey)
	}
	response, err := http.DefaultClient.Do(request)
	require.NoError(b.t, err)
	return read(b.t, response)
}

func TestPaymentIsPaidToWhomTheTokenBelongs(t *testing.T) {
	b := open(t)
	seller, other := b.connect(porto).text("access_token"), b.connect(aurora).text("access_token")
	status, made := b.pay(seller, "", `{"transaction_amount":12.50,"application_fee":1.25,"description":"Book","collector_id":5411000101}`)
	require.Equal(t, http.StatusCreated, status)
	require.Equal(t, "approved", made.text("status"))
	require.EqualValues(t, porto, made["collector_id"], "whatever the body says")
	require.EqualValues(t, porto, made["collector"].(map[string]any)["id"])
	require.EqualValues(t, 12.5, made["transaction_amount"])
	require.EqualValues(t, 1.25, made["application_fee"])
	require.Equal(t, "BRL", made.text("currency_id"))

	path := "/v1/payments/1300000001"
	status, found := b.api("GET", path, seller, "")
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, made, found)
	status, _ = b.api("GET", path, other, "")
	require.Equal(t, http.StatusNotFound, status, "nobody but its collector sees it")
}

func TestIdempotencyKeyPaysOnce(t *testing.T) {
	b := open(t)
	seller, other := b.connect(porto).text("access_token"), b.connect(aurora).text("access_token")
	_, first := b.pay(seller, "k", `{"transaction_amount":1}`)
	_, again := b.pay(seller, "k", `{"transaction_amount":1}`)
	require.Equal(t, first, again)
	_, another := b.pay(seller, "k2", `{"transaction_amount":1}`)
	require.NotEqual(t, first["id"], another["id"])
	_, others := b.pay(other, "k", `{"transaction_amount":1}`)
	require.NotEqual(t, first["id"], others["id"], "a key is its collector's")
	_, _ = b.pay(seller, "", `{"transaction_amount":1}`)
	_, _ = b.pay(seller, "", `{"transaction_amount":1}`)
	require.Equal(t, 5, b.Stats().Payments)
}

func TestPaymentWithoutAnAmountIsRefused(t *testing.T) {
	b := open(t)
	token := b.connect(porto).text("access_token")
	for _, body := range []string{``, `[]`, `null`, `{}`, `{"transaction_amount":"1"}`, `{"transaction_amount":-1}`, `{"transaction_amount":1e999}`} {
		status, a := b.pay(token, "", body)
		require.Equal(t, http.StatusBadRequest, status, body)
		require.Equal(t, "bad_request", a.text("error"))
	}
	require.Zero(t, b.Stats().Payments)
}

func TestPreferenceNamesItsCollector(t *testing.T) {
	b := open(t)
	token := b.connect(porto).text("access_token")
	for _, path := range []string{"/checkout/preferences", "/checkout/preferences/"} {
		status, made := b.api("POST", path, token, `{"items":[{"title":"Book","quantity":2,"unit_price":10.5}],"marketplace_fee":1}`)
		require.Equal(t, http.StatusCreated, status)
		require.EqualValues(t, porto, made["collector_id"])
		require.EqualValues(t, 1, made["marketplace_fee"])
		require.True(t, strings.HasPrefix(made.text("init_point"), b.url))
		page := b.page(made.text("init_point"), "")
		require.Contains(t, page, "Café do Porto")
		require.Contains(t, page, "21.00 BRL")
	}
	status, _ := b.api("POST", "/checkout/preferences", token, `{"items":[]}`)
	require.Equal(t, http.StatusBadRequest, status)
}

func TestRequestsWithoutALivingTokenGet401(t *testing.T) {
	b := open(t)
	for _, path := range []string{"/users/me", "/v1/payments/1"} {
		status, a := b.api("GET", path, "", "")
		require.Equal(t, http.StatusUnauthorized, status)
		require.Equal(t, "Must provide your access_token to proceed", a.text("message"))
		status, a = b.api("GET", path, "APP_USR-made-up", "")
		require.Equal(t, http.StatusUnauthorized, status)
		require.Equal(t, answer{"message": "invalid access token", "error": "unauthorized", "status": 401.0, "cause": []any{}}, a)
	}
	require.Equal(t, 4, b.Stats().APIRequests[401])
	status, _ := b.api("GET", "/nowhere", "", "")
	require.Equal(t, http.StatusNotFound, status)
}

func TestTokenInTheQueryIsTakenAndCounted(t *testing.T) {
	b := open(t)
	token := b.connect(aurora).text("access_token")
	status, a := b.api("GET", "/users/me?access_token="+token, "", "")
	require.Equal(t, http.StatusOK, status)
	require.EqualValues(t, aurora, a["id"])
	status, a = b.api("GET", "/users/me?access_token="+token, b.connect(porto).text("access_token"), "")
	require.Equal(t, http.StatusOK, status)
	require.EqualValues(t, porto, a["id"], "the header wins")
	require.Equal(t, 2, b.Stats().QueryTokens)
}

func TestUnlinkingEndsWhatTheAccountGaveToThatApplication(t *testing.T) {
	b := open(t)
	mine, other := b.connect(aurora), b.connect(porto)
	status, _ := b.api("DELETE", "/users/5411000101/applications/"+clientID, other.text("access_token"), "")
	require.Equal(t, http.StatusForbidden, status)
	status, _ = b.api("DELETE", "/users/5411000101/applications/"+clientID, mine.text("access_token"), "")
	require.Equal(t, http.StatusOK, status)
	status, _ = b.api("GET", "/users/me", mine.text("access_token"), "")
	require.Equal(t, http.StatusUnauthorized, status)
	status, _ = b.refresh(mine.text("refresh_token"))
	require.Equal(t, http.StatusBadRequest, status)
	status, _ = b.refresh(other.text("refresh_token"))
	require.Equal(t, http.StatusOK, status)
}

func TestTheOldestIsForgottenAndTheNewestIsNot(t *testing.T) {
	b := open(t, func(o *sandbox.Options) {})
	pair := b.connect(aurora)
	first := pair
	for range 1100 {
		_, pair = b.refresh(pair.text("refresh_token"))
	}
	status, _ := b.api("GET", "/users/me", first.text("access_token"), "")
	require.Equal(t, http.StatusUnauthorized, status)
	status, _ = b.api("GET", "/users/me", pair.text("access_token"), "")
	require.Equal(t, http.StatusOK, status)
}
