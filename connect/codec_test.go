package connect

import (
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/oauth"
	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

func TestWhatIsSealedIsBoundToApplicationAndPlace(t *testing.T) {
	source := newMemory(t)
	names := func(clientID, application, place string) []string {
		f, err := New(Config{
			Application: application, Source: source, Prefix: "/connect",
			Client: oauth.NewClient(oauth.Config{ClientID: clientID, RedirectURI: shop + "/connect/callback"}),
		})
		require.NoError(t, err)
		return f.names(place)
	}
	sealed := source.keyring.Seal(secret.Session, []byte("x"), names("1", "brasil", "cookie")...)
	for name, other := range map[string][]string{
		"another client id":   names("2", "brasil", "cookie"),
		"another application": names("1", "chile", "cookie"),
		"another place":       names("1", "brasil", "link"),
	} {
		_, err := source.keyring.Open(secret.Session, sealed, other...)
		require.ErrorIs(t, err, secret.ErrOpen, name)
	}
	_, err := source.keyring.Open(secret.Session, sealed, names("1", "brasil", "cookie")...)
	require.NoError(t, err)
}
