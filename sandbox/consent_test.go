package sandbox_test

import (
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// page gets a page as a browser of that language would.
func (b *bench) page(address, language string) string {
	b.t.Helper()
	request, err := http.NewRequest("GET", address, nil)
	require.NoError(b.t, err)
	request.Header.Set("Accept-Language", language)
	response, err := http.DefaultClient.Do(request)
	require.NoError(b.t, err)
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	require.NoError(b.t, err)
	require.Equal(b.t, "no-store", response.Header.Get("Cache-Control"))
	require.Contains(b.t, response.Header.Get("Content-Security-Policy"), "default-src 'none'")
	require.NotContains(b.t, response.Header.Get("Content-Security-Policy"), "form-action")
	return string(text)
}

func (b *bench) consent(change url.Values) string {
	return b.url + strings.TrimPrefix(authorizationURL(change), "https://auth.example.com")
}

// browser keeps cookies and follows nothing.
func browser() *http.Client {
	jar, _ := cookiejar.New(nil)
	return &http.Client{
		Jar: jar, CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}
}

func TestConsentPageSpeaksTheReadersLanguage(t *testing.T) {
	b := open(t)
	for accept, want := range map[string]string{
		"es-AR,es;q=0.9": "no hay dinero real", "pt-BR": "não há dinheiro de verdade", "en-US,en;q=0.5": "no real money",
		"": "no hay dinero real", "de": "no hay dinero real", "de, en;q=0.3, pt;q=0.7": "não há dinheiro de verdade",
		"en;q=x, pt": "não há dinheiro de verdade", "es;q=0, en": "no real money",
	} {
		page := b.page(b.consent(nil), accept)
		require.Contains(t, page, want, accept)
		require.Contains(t, page, "Demo shop")
		require.Contains(t, page, `id="account-5411000101"`)
		require.Contains(t, page, `id="account-5255000301"`)
		require.Contains(t, page, `name="decision" value="approve"`)
		require.Contains(t, page, `name="decision" value="deny"`)
		require.Contains(t, page, "shop.example.com")
	}
}

func TestWrongAuthorizationURLShowsAPageAndNeverRedirects(t *testing.T) {
	b := open(t)
	for name, change := range map[string]url.Values{
		"unknown application":  {"client_id": {"1"}},
		"no application":       {"client_id": {""}},
		"slash at the end":     {"redirect_uri": {redirectURI + "/"}},
		"http for https":       {"redirect_uri": {strings.Replace(redirectURI, "https", "http", 1)}},
		"more in the query":    {"redirect_uri": {redirectURI + "?a=b"}},
		"other host":           {"redirect_uri": {"https://evil.example/"}},
		"no redirect URI":      {"redirect_uri": {""}},
		"two redirect URIs":    {"redirect_uri": {redirectURI, redirectURI}},
		"another kind":         {"response_type": {"token"}},
		"unknown challenge":    {"code_challenge": {challenge()}, "code_challenge_method": {"S512"}},
		"short challenge":      {"code_challenge": {"short"}, "code_challenge_method": {"S256"}},
		"method and no digest": {"code_challenge_method": {"S256"}},
	} {
		t.Run(name, func(t *testing.T) {
			for _, method := range []string{"GET", "POST"} {
				request, _ := http.NewRequest(method, b.consent(change), strings.NewReader("account=5411000101&decision=approve"))
				request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
				response, err := browser().Do(request)
				require.NoError(t, err)
				response.Body.Close()
				require.Equal(t, http.StatusBadRequest, response.StatusCode)
				require.Empty(t, response.Header.Get("Location"))
			}
			_, err := b.Approve(authorizationURL(change), aurora)
			require.Error(t, err)
		})
	}
	require.Empty(t, b.Issued())
}

func TestBrowserApprovesAndIsNotAskedWhichAccountAgain(t *testing.T) {
	b, client := open(t), browser()
	decide := func(form url.Values) string {
		response, err := client.PostForm(b.consent(nil), form)
		require.NoError(t, err)
		response.Body.Close()
		require.Equal(t, http.StatusSeeOther, response.StatusCode)
		return response.Header.Get("Location")
	}
	look := func() string {
		response, err := client.Get(b.consent(nil))
		require.NoError(t, err)
		defer response.Body.Close()
		text, _ := io.ReadAll(response.Body)
		return string(text)
	}
	require.Contains(t, decide(url.Values{"account": {"5511000201"}, "decision": {"approve"}}), "-5511000201&state=")
	elsewhere, _ := url.Parse(b.url + "/connect")
	require.Empty(t, client.Jar.Cookies(elsewhere), "the shop on the same host never sees the cookie")

	page := look()
	require.Contains(t, page, `id="account-5511000201"`)
	require.NotContains(t, page, `id="account-5411000101"`)
	require.Contains(t, page, `value="switch"`)

	require.True(t, strings.HasPrefix(decide(url.Values{"decision": {"switch"}}), "/authorization?client_id="))
	require.Contains(t, look(), `id="account-5411000101"`)
}

func TestDenyingSendsAnErrorAndTheState(t *testing.T) {
	b := open(t)
	want := redirectURI + "?error=access_denied&error_description=The+user+denied+the+authorization&state=s+t%26te"
	response, err := browser().PostForm(b.consent(nil), url.Values{"account": {"5411000101"}, "decision": {"deny"}})
	require.NoError(t, err)
	response.Body.Close()
	require.Equal(t, want, response.Header.Get("Location"))
	callback, err := b.Deny(authorizationURL(nil))
	require.NoError(t, err)
	require.Equal(t, want, callback)
	require.Equal(t, 2, b.Stats().Denials)
	require.Empty(t, b.Issued())
}

func TestConsentFromElsewhereOrForNobodyIsRefused(t *testing.T) {
	b := open(t)
	for name, test := range map[string]struct{ site, body string }{
		"another site":    {"cross-site", "account=5411000101&decision=approve"},
		"unknown account": {"same-origin", "account=1&decision=approve"},
		"platform":        {"same-origin", "account=9000000001&decision=approve"},
		"no account":      {"same-origin", "decision=approve"},
		"no decision":     {"same-origin", "account=5411000101"},
	} {
		t.Run(name, func(t *testing.T) {
			request, _ := http.NewRequest("POST", b.consent(nil), strings.NewReader(test.body))
			request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
			request.Header.Set("Sec-Fetch-Site", test.site)
			response, err := browser().Do(request)
			require.NoError(t, err)
			response.Body.Close()
			require.Equal(t, http.StatusBadRequest, response.StatusCode)
		})
	}
	_, err := b.Approve(authorizationURL(nil), 1)
	require.Error(t, err)
	require.Empty(t, b.Issued())
}
