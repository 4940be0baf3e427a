package oauth

import (
	"io"
	"net/http"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/secret"
)

var noon = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

// answered is a reply that came at noon by both clocks.
func answered(status int, body string) reply {
	header := make(http.Header)
	header.Set("Date", noon.Format(http.TimeFormat))
	return reply{status: status, header: header, body: []byte(body), at: noon}
}

func TestAWholeAnswerIsReadWhole(t *testing.T) {
	var date string
	address := serve(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Date", date)
		_, _ = io.WriteString(w, fullAnswer)
	})
	date = noon.Format(http.TimeFormat)
	client := newTestClient(t, address, func(c *Config) { c.Now = func() time.Time { return noon } })
	answer, err := client.Refresh(t.Context(), secret.New("TG-old"))
	require.NoError(t, err)
	live := true
	require.Equal(t, "APP_USR-4934588586838432-XXXXXXXX-241983636", answer.AccessToken.Reveal())
	require.Equal(t, "TG-XXXXXXXX-241983636", answer.RefreshToken.Reveal())
	answer.AccessToken, answer.RefreshToken = secret.Secret{}, secret.Secret{}
	require.Equal(t, Answer{
		ExpiresIn: 180 * 24 * time.Hour, ReceivedAt: noon, Scope: "read write offline_access",
		UserID: 241983636, PublicKey: "APP_USR-d0a26210-XXXXXXXX-479f0400869e", LiveMode: &live,
	}, answer)
}

func TestAnOddMemberNeverCostsAPair(t *testing.T) {
	yes, no := true, false
	for _, row := range []struct {
		member string
		want   Answer
	}{
		{`"expires_in":21600`, Answer{ExpiresIn: 6 * time.Hour}},
		{`"expires_in":"21600"`, Answer{ExpiresIn: 6 * time.Hour}},
		{`"expires_in":2.16e4`, Answer{ExpiresIn: 6 * time.Hour}},
		{`"expires_in":1`, Answer{ExpiresIn: time.Second}},
		{`"expires_in":null`, Answer{ExpiresIn: time.Hour}},
		{`"expires_in":0`, Answer{ExpiresIn: time.Hour}},
		{`"expires_in":1e-12`, Answer{ExpiresIn: time.Hour}},
		{`"expires_in":-5`, Answer{ExpiresIn: time.Hour}},
		{`"expires_in":"NaN"`, Answer{ExpiresIn: time.Hour}},
		{`"expires_in":"soon"`, Answer{ExpiresIn: time.Hour}},
		{`"expires_in":{"s":1}`, Answer{ExpiresIn: time.Hour}},
		{`"expires_in":-1e999`, Answer{ExpiresIn: time.Hour}},
		{`"expires_in":15552001`, Answer{ExpiresIn: 180 * 24 * time.Hour}},
		{`"expires_in":15552000000`, Answer{ExpiresIn: 180 * 24 * time.Hour}},
		{`"expires_in":9223372036854775807`, Answer{ExpiresIn: 180 * 24 * time.Hour}},
		{`"expires_in":1e999`, Answer{ExpiresIn: 180 * 24 * time.Hour}},
		{`"user_id":"2419836367"`, Answer{UserID: 2419836367}},
		{`"user_id":9007199254740993`, Answer{UserID: 9007199254740993}},
		{`"user_id":2.41983636e+08`, Answer{UserID: 241983636}},
		{`"user_id":9.3e18`, Answer{}},
		{`"user_id":1.5`, Answer{}},
		{`"user_id":-7`, Answer{}},
		{`"user_id":-7.0`, Answer{}},
		{`"user_id":null`, Answer{}},
		{`"user_id":"me"`, Answer{}},
		{`"user_id":[7]`, Answer{}},
		{`"scope":null`, Answer{}},
		{`"scope":["read"]`, Answer{}},
		{`"scope":"a\nb"`, Answer{}},
		{`"scope":"` + strings.Repeat("x ", 600) + `"`, Answer{}},
		{`"scope":"offline_access read"`, Answer{Scope: "offline_access read"}},
		{`"public_key":42`, Answer{}},
		{`"public_key":"APP_USR-1"`, Answer{PublicKey: "APP_USR-1"}},
		{`"live_mode":false`, Answer{LiveMode: &no}},
		{`"live_mode":"true"`, Answer{LiveMode: &yes}},
		{`"live_mode":null`, Answer{}},
		{`"live_mode":"perhaps"`, Answer{}},
		{`"token_type":"Bearer"`, Answer{}},
		{`"token_type":null`, Answer{}},
		{`"token_type":"mac"`, Answer{}},
		{`"new_member":{"deep":[1,2]}`, Answer{}},
	} {
		answer, ok := answered(200, `{"access_token":"APP_USR-1","refresh_token":"TG-1",`+row.member+`}`).answer()
		require.True(t, ok, row.member)
		require.Equal(t, "APP_USR-1", answer.AccessToken.Reveal())
		require.Equal(t, "TG-1", answer.RefreshToken.Reveal())
		answer.AccessToken, answer.RefreshToken = secret.Secret{}, secret.Secret{}
		row.want.ReceivedAt = noon
		if row.want.ExpiresIn == 0 {
			row.want.ExpiresIn = time.Hour
		}
		require.Equal(t, row.want, answer, row.member)
	}
}

func TestAUserIDThatAFloatCannotHoldIsNone(t *testing.T) {
	answer, ok := answered(200, `{"access_token":"APP_USR-1","refresh_token":"TG-1","user_id":1.8e16}`).answer()
	require.True(t, ok)
	require.Zero(t, answer.UserID, "it would name another account")
}

func TestAPairIsTakenFromAnyWholeAnswer(t *testing.T) {
	const pair = `{"access_token":"a","refresh_token":"r"}`
	for name, got := range map[string]reply{
		"as it is":             answered(200, pair),
		"created":              answered(201, pair),
		"with a mark in front": answered(200, "\xef\xbb\xbf"+pair),
		"with spaces around":   answered(200, " \n"+pair+"\r\n"),
		"cut behind the end":   {status: 200, body: []byte(pair), broken: codeCut, at: noon},
		"without refresh":      answered(200, `{"access_token":"a","token_type":"BEARER"}`),
		"refresh is null":      answered(200, `{"access_token":"a","refresh_token":null}`),
	} {
		answer, ok := got.answer()
		require.True(t, ok, name)
		require.Equal(t, "a", answer.AccessToken.Reveal())
	}
}

func TestWhatIsNoAnswerIsUnreadable(t *testing.T) {
	for _, body := range []string{
		``, `null`, `[]`, `"text"`, `{}`, `<html>`, `{"access_token":`, fullAnswer[:len(fullAnswer)-1], fullAnswer + `x`,
		`{"access_token":""}`, `{"access_token":null}`, `{"access_token":7}`, `{"access_token":["a"]}`,
		`{"refresh_token":"TG-1"}`, `{"access_token":"a b"}`, `{"access_token":"a\r\nX-Seller: other"}`,
		`{"access_token":"ñ"}`, "{\"access_token\":\"\xff\"}", `{"access_token":"a","token_type":"mac"}`,
		`{"error":"invalid_grant","status":400}`, `{"error":"invalid_client"}`,
	} {
		got := answered(200, body)
		_, ok := got.answer()
		require.False(t, ok, body)
		failure := got.tokenError(newRedactor(nil))
		require.Equal(t, Unknown, failure.Outcome, body)
		require.Equal(t, codeUnreadable, failure.Code, body)
	}
	for _, status := range []int{302, 400, 500} {
		_, ok := answered(status, fullAnswer).answer()
		require.False(t, ok, "tokens are taken from 2xx only")
	}
}

func TestExpiryNeverLiesBeyondTheTokensEndByEitherClock(t *testing.T) {
	const life = 6 * time.Hour
	for name, row := range map[string]struct {
		date string
		want time.Duration
	}{
		"no date":                 {"", life},
		"no date at all":          {"yesterday", life},
		"equal":                   {noon.Format(http.TimeFormat), life},
		"ours 5 minutes ahead":    {noon.Add(-5 * time.Minute).Format(http.TimeFormat), life},
		"ours 6 minutes ahead":    {noon.Add(-6 * time.Minute).Format(http.TimeFormat), life - 6*time.Minute},
		"ours 4 hours ahead":      {noon.Add(-4 * time.Hour).Format(http.TimeFormat), 2 * time.Hour},
		"ours a year ahead":       {noon.AddDate(-1, 0, 0).Format(http.TimeFormat), time.Hour},
		"ours a year behind":      {noon.AddDate(1, 0, 0).Format(http.TimeFormat), life},
		"ours 6 minutes behind":   {noon.Add(6 * time.Minute).Format(http.TimeFormat), life},
		"theirs was never set up": {"Thu, 01 Jan 1970 00:00:00 GMT", time.Hour},
	} {
		got := answered(200, "")
		got.header.Set("Date", row.date)
		require.Equal(t, row.want, got.reckon(life), name)
		require.Equal(t, time.Minute, got.reckon(time.Minute), "a short life is never made longer")
	}
}

func TestRetryAfterIsReadInBothFormsAndBounded(t *testing.T) {
	for _, row := range []struct {
		retryAfter, date string
		want             time.Duration
	}{
		{"", "", 0},
		{"7", "", 7 * time.Second},
		{" 7 ", "", 7 * time.Second},
		{"0", "", 0},
		{"-3", "", 0},
		{"1.5", "", 0},
		{"soon", "", 0},
		{"999999", "", time.Hour},
		{"99999999999999999999999", "", time.Hour},
		{"Sun, 22 Nov 2026 12:01:00 GMT", "Sun, 22 Nov 2026 12:00:00 GMT", time.Minute},
		{"Sun, 22 Nov 2026 12:01:00 GMT", "", time.Minute},
		{"Sun, 22 Nov 2026 15:01:00 GMT", "Sun, 22 Nov 2026 15:00:00 GMT", time.Minute},
		{"Sun, 22 Nov 2026 11:00:00 GMT", "Sun, 22 Nov 2026 12:00:00 GMT", 0},
		{"Sun, 22 Nov 2126 11:00:00 GMT", "Sun, 22 Nov 2026 12:00:00 GMT", time.Hour},
		{"soon", "Sat, 01 Jan 0000 00:00:00 GMT", 0}, // before Go's zero time
	} {
		got := reply{status: 429, header: make(http.Header), at: noon}
		got.header.Set("Retry-After", row.retryAfter)
		got.header.Set("Date", row.date)
		require.Equal(t, row.want, got.tokenError(newRedactor(nil)).RetryAfter, row.retryAfter)
	}
}

func FuzzTokenAnswer(f *testing.F) {
	f.Add(200, fullAnswer, "Sun, 22 Nov 2026 12:00:00 GMT", "7")
	f.Add(200, `{"access_token":"a","refresh_token":7,"expires_in":"1e400","user_id":1e18,"live_mode":0}`, "", "")
	for _, shape := range errorShapes {
		if len(shape.body) > 1000 {
			continue // only slows the fuzzer down
		}
		f.Add(shape.status, shape.body, "", "Sun, 22 Nov 2026 12:00:00 GMT")
	}
	f.Fuzz(func(t *testing.T, status int, body, date, retryAfter string) {
		got := reply{status: status, header: http.Header{"Date": {date}, "Retry-After": {retryAfter}}, body: []byte(body), at: noon}
		if answer, ok := got.answer(); ok {
			require.Equal(t, 2, status/100)
			require.True(t, sendable(answer.AccessToken.Reveal()))
			require.Positive(t, answer.ExpiresIn)
			require.LessOrEqual(t, answer.ExpiresIn, maxLife)
			require.GreaterOrEqual(t, answer.UserID, int64(0))
			require.LessOrEqual(t, len(answer.Scope)+len(answer.PublicKey), 2*maxText)
			return
		}
		requireSound(t, got.tokenError(newRedactor([]secret.Secret{secret.New(canary)})), status, body)
	})
}

// requireSound checks what holds for the error of any answer at all.
func requireSound(t *testing.T, failure *Error, status int, body string) {
	t.Helper()
	switch failure.Outcome {
	case GrantDead, ApplicationFault:
		require.Equal(t, 4, status/100, "only 4xx is a verdict")
		require.NotEqual(t, 429, status)
	case Refused:
		require.Equal(t, 429, status, "what was sent is refused by 429 only")
	case Unknown:
	}
	if failure.Outcome == GrantDead {
		require.True(t, strings.Contains(body, "grant") || strings.Contains(body, "unauthorized_client") || strings.Contains(body, `\u`),
			"only an explicit word condemns")
	}
	require.Regexp(t, `^[a-z_]{3,30}$`, failure.Code)
	require.LessOrEqual(t, len([]rune(failure.Description)), maxDescription)
	require.Equal(t, clean(failure.Description), failure.Description)
	require.NotContains(t, failure.Error(), canary)
	require.GreaterOrEqual(t, failure.RetryAfter, time.Duration(0))
	require.LessOrEqual(t, failure.RetryAfter, maxRetryAfter)
}
