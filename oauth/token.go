package oauth

import (
	"context"
	"encoding/json"
	"net/http"
	"net/url"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

// Exchange asks for the first pair of an authorization. The verifier is the
// attempt's, empty without PKCE. The error is an [*Error].
//
// When ctx ends before anything was sent the outcome is [Refused], later it is
// [Unknown]; that goes for every grant.
func (c *Client) Exchange(ctx context.Context, code string, verifier secret.Secret) (Answer, error) {
	if code == "" {
		return Answer{}, &Error{Outcome: Refused, Code: codeNotSent, Description: "there is no code to exchange"}
	}
	fields := map[string]string{
		"grant_type":   "authorization_code",
		"code":         code,
		"redirect_uri": c.config.RedirectURI,
	}
	if !verifier.IsZero() {
		fields["code_verifier"] = verifier.Reveal()
	}
	if c.config.TestToken {
		fields["test_token"] = "true"
	}
	return c.token(ctx, fields, secret.New(code), verifier)
}

// Refresh asks for the next pair. It burns the refresh token. The error is an
// [*Error].
func (c *Client) Refresh(ctx context.Context, refresh secret.Secret) (Answer, error) {
	if refresh.IsZero() {
		return Answer{}, &Error{Outcome: Refused, Code: codeNotSent, Description: "there is no refresh token to send"}
	}
	fields := map[string]string{"grant_type": "refresh_token", "refresh_token": refresh.Reveal()}
	return c.token(ctx, fields, refresh)
}

// ClientCredentials asks for a token of the application itself. The error is an
// [*Error].
func (c *Client) ClientCredentials(ctx context.Context) (Answer, error) {
	return c.token(ctx, map[string]string{"grant_type": "client_credentials"})
}

// token posts a grant. If the provider rejects the client secret it tries the next
// one: invalid_client proves that nothing was done, so this repeats no grant. The
// secrets among the fields are for the redactor.
func (c *Client) token(ctx context.Context, fields map[string]string, secrets ...secret.Secret) (Answer, error) {
	ctx, cancel := context.WithTimeout(ctx, c.config.Timeout)
	defer cancel()
	words := newRedactor(append(secrets, c.config.ClientSecrets...))
	failure := &Error{Outcome: ApplicationFault, Code: invalidClient, Description: "no client secret is configured"}
	first, n := c.working.Load(), int64(len(c.config.ClientSecrets))
	for i := range n {
		at := (first + i) % n
		fields["client_id"] = c.config.ClientID
		fields["client_secret"] = c.config.ClientSecrets[at].Reveal()
		var answer Answer
		if answer, failure = c.post(ctx, fields, words); failure == nil {
			c.working.Store(at)
			return answer, nil
		}
		if failure.Code != invalidClient {
			break
		}
	}
	return Answer{}, failure
}

// post sends one token request, once.
func (c *Client) post(ctx context.Context, fields map[string]string, words *redactor) (Answer, *Error) {
	contentType, content := c.encode(fields)
	body := c.newBody(ctx, content)
	// net/http does not know the type of this reader, so the request gets no GetBody.
	request, err := http.NewRequestWithContext(ctx, http.MethodPost, c.config.Provider.API+"/oauth/token", body)
	if err != nil {
		return Answer{}, &Error{Outcome: Refused, Code: codeNotSent, Description: "the api endpoint is not a URL"}
	}
	request.ContentLength = int64(len(content))
	request.Header.Set("Content-Type", contentType)
	got, failure := c.roundTrip(request, words)
	if failure != nil {
		return Answer{}, failure
	}
	if answer, ok := got.answer(); ok {
		return answer, nil
	}
	return Answer{}, got.tokenError(words)
}

// encode writes a request's fields the way the provider reads them.
func (c *Client) encode(fields map[string]string) (contentType string, content []byte) {
	if c.config.Provider.FormBody {
		form := make(url.Values, len(fields))
		for name, value := range fields {
			form.Set(name, value)
		}
		return "application/x-www-form-urlencoded", []byte(form.Encode())
	}
	content, _ = json.Marshal(fields) // strings always have a JSON form
	return "application/json", content
}
