package oauth

import (
	"context"
	"net/http"
	"net/url"
	"strconv"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// maxNickname bounds what a page shows as an account's name.
const maxNickname = 80

// Me asks whose an access token is. The error is an [*Error] whose outcome is
// never a verdict: a token that the API does not take (code unauthorized) tells
// nothing of the refresh token beside it.
func (c *Client) Me(ctx context.Context, access secret.Secret) (User, error) {
	got, failure := c.call(ctx, http.MethodGet, "/users/me", access)
	if failure != nil {
		return User{}, failure
	}
	o := got.object()
	id := o.id("id")
	if id == 0 {
		return User{}, got.failure(newRedactor([]secret.Secret{access}))
	}
	user := User{ID: id, Nickname: truncate(clean(o.raw("nickname")), maxNickname)}
	if country := o.raw("country_id"); len(country) == 2 && isCapital(country[0]) && isCapital(country[1]) {
		user.Country = country
	}
	return user, nil
}

func isCapital(c byte) bool { return 'A' <= c && c <= 'Z' }

// Revoke ends an account's authorization at the provider. It does nothing where
// the provider has no way to ask for that. The error is an [*Error], as
// [Client.Me] gives it.
func (c *Client) Revoke(ctx context.Context, userID int64, access secret.Secret) error {
	if !c.config.Provider.Revokes {
		return nil
	}
	path := "/users/" + strconv.FormatInt(userID, 10) + "/applications/" + url.PathEscape(c.config.ClientID)
	if _, failure := c.call(ctx, http.MethodDelete, path, access); failure != nil {
		return failure
	}
	return nil
}

// call asks the API with an access token, once; an answer that is not 2xx is a
// failure.
func (c *Client) call(ctx context.Context, method, path string, access secret.Secret) (reply, *Error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	if !sendable(access.Reveal()) {
		return reply{}, &Error{Outcome: Refused, Code: codeNotSent, Description: "there is no access token to send"}
	}
	request, err := http.NewRequestWithContext(ctx, method, c.config.Provider.API+path, http.NoBody)
	if err != nil {
		return reply{}, &Error{Outcome: Refused, Code: codeNotSent, Description: "the api endpoint is not a URL"}
	}
	request.Header.Set("Authorization", "Bearer "+access.Reveal())
	words := newRedactor([]secret.Secret{access})
	got, failure := c.roundTrip(request, words)
	if failure != nil {
		return reply{}, failure
	}
	if got.status/100 != 2 {
		return reply{}, got.failure(words)
	}
	return got, nil
}
