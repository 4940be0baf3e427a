package mercadopago

import (
	"bufio"
	"net/http"
	"net/url"
	"os"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAnAllowListLetsItsMethodsAndPathsPassAndNothingElse(t *testing.T) {
	egress := Egress{Allow: []Allow{
		{Methods: []string{"POST"}, Paths: []string{"/v1/payments", "/v1/orders/*", "/checkout/preferences"}},
		{Methods: []string{"GET", "HEAD"}, Paths: []string{"/v1/payments/*", "/v1/customers/*/cards"}},
		{Paths: []string{"/users/me"}},
	}}
	require.NoError(t, egress.provision())
	for _, test := range []struct {
		method, path string
		want         bool
	}{
		{"POST", "/v1/payments", true},
		{"POST", "/v1/payments/", true},
		{"POST", "/checkout/preferences/", true},
		{"POST", "/v1/orders/1", true},
		{"POST", "/v1/orders/1/refunds/2", true},
		{"GET", "/v1/payments/1", true},
		{"HEAD", "/v1/payments/1", true},
		{"GET", "/v1/customers/1/cards", true},
		{"DELETE", "/users/me", true},
		{"POST", "/v1/payments?id=1", true},

		{"GET", "/v1/payments", false},
		{"post", "/v1/payments", false},
		{"POST", "/v1/payments/1", false},
		{"POST", "/v1/orders", false},
		{"POST", "/v1/orders/", false},
		{"PUT", "/v1/orders/1", false},
		{"GET", "/v1/customers/cards", false},
		{"GET", "/v1/customers/1/2/cards", false},
		{"GET", "/v1/customers/1/cards/2", false},
		{"POST", "/V1/payments", false},
		{"POST", "/v1/paymentsx", false},
		{"POST", "/", false},
		{"GET", "/v1/advanced_payments", false},
	} {
		u, err := url.Parse(test.path)
		require.NoError(t, err)
		got := egress.allowed(&http.Request{Method: test.method, URL: u})
		require.Equal(t, test.want, got, "%s %s", test.method, test.path)
	}
}

// What no server can read in two ways goes on, in its plain form. What one could
// is refused. The list allows all below /v1/payments, so what is refused here is
// refused for its spelling.
func TestNoSpellingOfAPathLeadsPastTheAllowList(t *testing.T) {
	r := newRig(t)
	r.load(sellerSite + `
EGRESS {
	bind 127.0.0.1
	mercadopago {
		egress
		seller {http.request.header.X-Seller}
		allow GET /v1/payments/*
	}
	reverse_proxy APP
}
`)
	r.connectSeller("shop-1", aurora)
	file, err := os.Open("testdata/path_confusion.txt")
	require.NoError(t, err)
	defer file.Close()
	tried := 0
	for lines := bufio.NewScanner(file); lines.Scan(); {
		line := lines.Text()
		if line == "" || strings.HasPrefix(line, "#") {
			continue
		}
		sent, want, _ := strings.Cut(line, " -> ")
		tried++
		got := r.raw(r.at("EGRESS"), "GET "+sent+" HTTP/1.1\r\nHost: "+strings.TrimPrefix(r.at("EGRESS"), "http://")+"\r\nX-Seller: shop-1\r\nConnection: close\r\n\r\n")
		seen := r.app.last()
		if want == "" {
			require.Contains(t, []int{http.StatusForbidden, http.StatusBadRequest, http.StatusMovedPermanently, http.StatusPermanentRedirect}, got, sent)
			require.Nil(t, seen, "%s reached the API as %v", sent, seen)
			continue
		}
		require.Equal(t, http.StatusOK, got, sent)
		require.NotNil(t, seen, sent)
		require.Equal(t, want, seen.URL.RequestURI(), "of %s: what is matched is what is forwarded", sent)
	}
	require.GreaterOrEqual(t, tried, 120)
}

func FuzzCanonicalPath(f *testing.F) {
	for _, seed := range []string{"/v1/payments", "/v1/%2e%2e/x", "//a/./b/../c/", `/a\b`, "/a;b", "/%2f", "/\x00"} {
		f.Add(seed)
	}
	f.Fuzz(func(t *testing.T, text string) {
		u, err := url.Parse(text)
		if err != nil {
			return
		}
		canonical, ok := canonicalPath(u)
		if !ok {
			return
		}
		require.True(t, strings.HasPrefix(canonical, "/"))
		require.NotContains(t, canonical, "//")
		require.NotContains(t, canonical+"/", "/../")
		require.NotContains(t, canonical+"/", "/./")
		again, ok := canonicalPath(&url.URL{Path: canonical})
		require.True(t, ok)
		require.Equal(t, canonical, again, "the plain form is the plain form of itself")
	})
}
