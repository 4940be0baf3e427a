package sandbox

import (
	"net/url"
	"strings"
	"testing"
	"unicode/utf8"

	"github.com/stretchr/testify/require"
)

func TestTokenRequestsAreReadAsJSONAndAsForms(t *testing.T) {
	want := map[string]string{"grant_type": "refresh_token", "client_id": "123"}
	for name, test := range map[string]struct{ contentType, body string }{
		"form":                      {"application/x-www-form-urlencoded", "grant_type=refresh_token&client_id=123"},
		"form with charset":         {"application/x-www-form-urlencoded; charset=UTF-8", "grant_type=refresh_token&client_id=123"},
		"JSON":                      {"application/json", `{"grant_type":"refresh_token","client_id":"123"}`},
		"JSON with a number":        {"application/json;charset=utf-8", `{"grant_type":"refresh_token","client_id":123}`},
		"JSON with a null":          {"application/json", `{"grant_type":"refresh_token","client_id":"123","code":null,"test_token":false}`},
		"JSON without content type": {"", `{"grant_type":"refresh_token","client_id":"123"}`},
	} {
		t.Run(name, func(t *testing.T) {
			form, err := parseForm(test.contentType, []byte(test.body))
			require.NoError(t, err)
			require.Equal(t, want, form)
		})
	}
	for _, body := range []string{"", "[]", "null", "{", `{"a":{}}`, `{"a":[1]}`, `{}{}`, `{"a":"b"} x`, "grant_type=x"} {
		_, err := parseForm("application/json", []byte(body))
		require.ErrorIs(t, err, errForm, body)
	}
	_, err := parseForm("application/x-www-form-urlencoded", []byte("a=%zz"))
	require.ErrorIs(t, err, errForm)
	_, err = parseForm("application/x-www-form-urlencoded", []byte(strings.Repeat("a", 10)+"&"+manyFields()))
	require.ErrorIs(t, err, errForm)
}

func manyFields() string {
	values := url.Values{}
	for i := range maxFields + 1 {
		values.Set(formatID(int64(i)), "x")
	}
	return values.Encode()
}

func FuzzTokenRequest(f *testing.F) {
	f.Add("application/json", []byte(`{"grant_type":"refresh_token","client_id":123,"test_token":true,"code":null}`))
	f.Add("application/x-www-form-urlencoded", []byte("grant_type=authorization_code&code=TG-1-2&redirect_uri=https%3A%2F%2Fa"))
	f.Add("application/x-www-form-urlencoded; charset=utf-8", []byte("a=1&a=2&%00=\xff"))
	f.Add("text/plain", []byte(`{"a":1e400}`))
	f.Add("", []byte(`{"a":{"b":[]}}`))
	f.Fuzz(func(t *testing.T, contentType string, body []byte) {
		form, err := parseForm(contentType, body)
		if err != nil {
			require.ErrorIs(t, err, errForm)
			require.Nil(t, form)
			return
		}
		require.LessOrEqual(t, len(form), maxFields)
		if strings.HasPrefix(contentType, "application/x-www-form-urlencoded") {
			values, err := url.ParseQuery(string(body))
			require.NoError(t, err)
			for name := range form {
				require.Equal(t, values.Get(name), form[name])
			}
		}
	})
}

func FuzzJournalText(f *testing.F) {
	f.Add("/v1/payments\r\n\x1b[31m")
	f.Add(strings.Repeat("é", 200))
	f.Fuzz(func(t *testing.T, text string) {
		out := clip(text)
		require.LessOrEqual(t, len(out), 123)
		require.NotContains(t, out, "\n")
		require.NotContains(t, out, "\x1b")
		if utf8.ValidString(text) {
			require.True(t, utf8.ValidString(out))
		}
	})
}

func TestDurationsAreReadAsTheyAreWritten(t *testing.T) {
	for _, text := range []string{"180d", "6h", "10m", "90s", "1h30m", "1h30m5s", "1.5s", "0s", "100ms", "1h0m5s"} {
		var d Duration
		require.NoError(t, d.UnmarshalText([]byte(text)))
		var again Duration
		require.NoError(t, again.UnmarshalText([]byte(d.String())))
		require.Equal(t, d, again)
	}
	require.Equal(t, "6h", Duration(6*60*60*1e9).String())
	for _, text := range []string{"", "d", "1y", "99999999d", "6"} {
		require.Error(t, new(Duration).UnmarshalText([]byte(text)), text)
	}
}

func BenchmarkTokenEndpoint(b *testing.B) {
	s := New(Options{})
	call := &call{form: map[string]string{
		"grant_type": grantApplication, "client_id": DefaultClientID, "client_secret": DefaultClientSecret,
	}}
	for b.Loop() {
		if _, err := s.grant(call); err != nil {
			b.Fatal(err.message)
		}
	}
}
