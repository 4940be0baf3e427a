package connect

import (
	"testing"

	"github.com/stretchr/testify/require"
)

func TestNewSaysWhatIsWrongWithAConfiguration(t *testing.T) {
	for name, c := range map[string]struct {
		redirect, prefix string
		returnTo         []string
		says             string
	}{
		"no https":          {"http://shop.example.com/connect/callback", "/connect", nil, "must begin with https://"},
		"no address":        {"shop.example.com", "/connect", nil, "is not an address"},
		"another scheme":    {"ftp://127.0.0.1/connect/callback", "/connect", nil, "must begin with https://"},
		"a fragment":        {shop + "/connect/callback#x", "/connect", nil, "is not an address"},
		"unparsable":        {shop + "/%zz", "/connect", nil, "is not an address"},
		"a user":            {"https://user@shop.example.com/connect/callback", "/connect", nil, "is not an address"},
		"a public address":  {"http://192.0.2.1/connect/callback", "/connect", nil, "must begin with https://"},
		"two slashes":       {shop + "/connect/callback", "/shop//connect", nil, "write a path"},
		"a query":           {shop + "/connect/callback", "/connect?x", nil, "write a path"},
		"a pattern":         {shop + "/connect/callback", "/connect*", nil, "write a path"},
		"a backslash":       {shop + "/connect/callback", `/connect\x`, nil, "write a path"},
		"an encoded prefix": {shop + "/connect/callback", "/%63onnect", nil, "write a path"},
		"no prefix":         {shop + "/connect/callback", "", nil, "write a path such as /connect"},
		"slash at the end":  {shop + "/connect/callback", "/connect/", nil, "without a slash at its end"},
		"relative prefix":   {shop + "/connect/callback", "connect", nil, "write a path"},
		"callback on start": {shop + "/connect", "/connect", nil, "is one of the connect pages"},
		"callback on link":  {shop + "/connect/link", "/connect", nil, "is one of the connect pages"},
		"odd return_to":     {shop + "/connect/callback", "/connect", []string{"settings"}, `return_to "settings"`},
		"star in between":   {shop + "/connect/callback", "/connect", []string{"/a/*/b"}, `return_to "/a/*/b"`},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(Config{Client: client(c.redirect), Source: newMemory(t), Prefix: c.prefix, ReturnTo: c.returnTo})
			require.ErrorContains(t, err, c.says)
		})
	}
}

func TestMatchIsExact(t *testing.T) {
	f := shopFlow(t)
	for path, want := range map[string]Page{
		"/connect": PageConnect, "/connect/callback": PageCallback, "/connect/finish": PageFinish, "/connect/confirm": PageConfirm,
		"/connect/disconnect": PageDisconnect, "/connect/link": PageLink,
		"/connect/": 0, "/Connect": 0, "/connect/callback/": 0, "/%63onnect": 0, "/connect/x": 0, "/": 0, "": 0, "//connect": 0,
	} {
		got, ok := f.Match(path)
		require.Equal(t, want, got, path)
		require.Equal(t, want != 0, ok, path)
	}
}

func TestTheOriginIsWrittenAsBrowsersWriteIt(t *testing.T) {
	for redirect, origin := range map[string]string{
		"https://Shop.Example.com:443/cb": "https://shop.example.com", "https://shop.example.com:8443/cb": "https://shop.example.com:8443",
		"http://localhost:80/cb": "http://localhost", "http://[::1]:9000/cb": "http://[::1]:9000", "http://demo.localhost:1/cb": "http://demo.localhost:1",
	} {
		f, err := New(Config{Client: client(redirect), Source: newMemory(t), Prefix: "/connect"})
		require.NoError(t, err)
		require.Equal(t, origin, f.origin)
	}
}
