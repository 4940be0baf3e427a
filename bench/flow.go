package main

import (
	"errors"
	"fmt"
	"html"
	"io"
	"net/http"
	"net/http/cookiejar"
	"regexp"
	"strings"
	"time"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// browser is a seller's browser that follows nothing by itself.
type browser struct {
	shop     string
	provider *sandbox.Sandbox
	client   *http.Client
}

func newBrowser(shop string, provider *sandbox.Sandbox, transport http.RoundTripper) (*browser, error) {
	jar, err := cookiejar.New(nil)
	if err != nil {
		return nil, err
	}
	return &browser{shop, provider, &http.Client{
		Jar: jar, Transport: transport, Timeout: time.Minute,
		CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
	}}, nil
}

// get asks for a page as a link of the site itself would.
func (b *browser) get(address string, wanted int) (location, body string, err error) {
	if strings.HasPrefix(address, "/") {
		address = b.shop + address
	}
	r, err := http.NewRequest(http.MethodGet, address, nil)
	if err != nil {
		return "", "", err
	}
	r.Header.Set("Sec-Fetch-Site", "same-origin")
	response, err := b.client.Do(r)
	if err != nil {
		return "", "", err
	}
	defer response.Body.Close()
	text, err := io.ReadAll(response.Body)
	if err != nil {
		return "", "", err
	}
	if response.StatusCode != wanted {
		return "", "", fmt.Errorf("%s %s: %s", r.URL.Path, response.Status, text)
	}
	return response.Header.Get("Location"), string(text), nil
}

var onward = regexp.MustCompile(`http-equiv="refresh" content="0;url=([^"]+)"`)

// connect walks the whole way in session mode: to the provider, back with a code,
// on to what exchanges it, and home.
func (b *browser) connect(userID int64) error {
	authorization, _, err := b.get("/connect?return_to=/", http.StatusSeeOther)
	if err != nil {
		return err
	}
	callback, err := b.provider.Approve(authorization, userID)
	if err != nil {
		return err
	}
	_, page, err := b.get(callback, http.StatusOK)
	if err != nil {
		return err
	}
	next := onward.FindStringSubmatch(page)
	if next == nil {
		return errors.New("the callback's page does not move on")
	}
	_, _, err = b.get(html.UnescapeString(next[1]), http.StatusSeeOther)
	return err
}

// session is the cookie that the browser has then. The jar would not give it to
// a shop on plain http.
func (b *browser) session(r *http.Request) (string, error) {
	for _, c := range b.client.Jar.Cookies(r.URL) {
		if strings.Contains(c.Name, "session") {
			return c.Name + "=" + c.Value, nil
		}
	}
	return "", errors.New("the browser has no session")
}
