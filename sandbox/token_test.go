package sandbox_test

import (
	"fmt"
	"maps"
	"net/http"
	"net/url"
	"strings"
	"testing"
	"time"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

const deadGrant = "Error validating grant. Your authorization code or refresh token may be expired or it was already used."

func refusal(code, message string) answer {
	return answer{"message": message, "error": code, "status": 400.0, "cause": []any{}}
}

func requireRefused(t *testing.T, status int, got, want answer) {
	t.Helper()
	require.Equal(t, http.StatusBadRequest, status)
	require.Equal(t, want, got)
}

func TestConsentLeadsToATokenOfThatAccount(t *testing.T) {
	b := open(t)
	callback, err := b.Approve(authorizationURL(nil), aurora)
	require.NoError(t, err)
	require.Regexp(t, `^https://shop\.example\.com/connect/callback\?code=TG-[0-9a-f]{24}-5411000101&state=s\+t%26te$`, callback)
	parsed, _ := url.Parse(callback)

	status, a := b.exchange(parsed.Query().Get("code"))
	require.Equal(t, http.StatusOK, status)
	require.Regexp(t, `^APP_USR-4934588586838432-030112-[0-9a-f]{32}-5411000101$`, a.text("access_token"))
	require.Regexp(t, `^TG-[0-9a-f]{24}-5411000101$`, a.text("refresh_token"))
	require.Regexp(t, `^APP_USR-[0-9a-f-]{36}$`, a.text("public_key"))
	require.Equal(t, "bearer", a.text("token_type"))
	require.Equal(t, "read write offline_access", a.text("scope"))
	require.EqualValues(t, 15552000, a["expires_in"])
	require.EqualValues(t, aurora, a["user_id"])
	require.Equal(t, true, a["live_mode"])

	status, me := b.api("GET", "/users/me", a.text("access_token"), "")
	require.Equal(t, http.StatusOK, status)
	require.EqualValues(t, aurora, me["id"])
	require.Equal(t, "LIBRERIA_AURORA", me["nickname"])
	require.Equal(t, "AR", me["country_id"])
	require.Equal(t, "MLA", me["site_id"])
	require.Equal(t, 1, b.Stats().TokenRequests["authorization_code"]["ok"])
}

func TestFormBodyIsTakenToo(t *testing.T) {
	b := open(t)
	response, err := http.PostForm(b.url+"/oauth/token", url.Values{
		"client_id": {clientID}, "client_secret": {clientSecret}, "grant_type": {"authorization_code"},
		"code": {b.code(porto, nil)}, "redirect_uri": {redirectURI},
	})
	require.NoError(t, err)
	status, a := read(t, response)
	require.Equal(t, http.StatusOK, status)
	require.EqualValues(t, porto, a["user_id"])
}

func TestBasicAuthIsNotLookedAt(t *testing.T) {
	b := open(t)
	request, _ := http.NewRequest("POST", b.url+"/oauth/token", strings.NewReader("grant_type=client_credentials"))
	request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
	request.SetBasicAuth(clientID, clientSecret)
	response, err := http.DefaultClient.Do(request)
	require.NoError(t, err)
	status, a := read(t, response)
	requireRefused(t, status, a, refusal("invalid_request",
		"the following parameters are required: grant_type, client_id, client_secret. Missing parameters: client_id, client_secret"))
}

func TestCodeIsForOneTryWithinTenMinutes(t *testing.T) {
	b := open(t)
	dead := refusal("invalid_grant", deadGrant)

	used := b.code(aurora, nil)
	status, _ := b.exchange(used)
	require.Equal(t, http.StatusOK, status)
	status, a := b.exchange(used)
	requireRefused(t, status, a, dead)
	require.Equal(t, 1, b.Stats().CodeReuse)

	old := b.code(aurora, nil)
	b.later(10 * time.Minute)
	status, a = b.exchange(old)
	requireRefused(t, status, a, dead)

	b.SetCodeLife(time.Second)
	short := b.code(aurora, nil)
	b.later(time.Second)
	status, a = b.exchange(short)
	requireRefused(t, status, a, dead)

	elsewhere := b.code(aurora, nil)
	status, a = b.token(map[string]string{
		"grant_type": "authorization_code", "code": elsewhere, "redirect_uri": redirectURI + "/",
	})
	requireRefused(t, status, a, refusal("invalid_grant", "The redirect_uri does not match the original"))
	status, a = b.exchange(elsewhere)
	requireRefused(t, status, a, dead)
}

func TestTokenRequestsAreRefusedInTheRealServicesWords(t *testing.T) {
	b := open(t)
	pair := b.connect(aurora)
	other := map[string]string{"client_id": "2222", "client_secret": "other secret"}
	with := func(base map[string]string, more map[string]string) map[string]string {
		out := map[string]string{}
		for _, m := range []map[string]string{base, more} {
			maps.Copy(out, m)
		}
		return out
	}
	wrong := answer{"message": "invalid client_id or client_secret", "error": "invalid_client"}
	for name, test := range map[string]struct {
		fields map[string]string
		want   answer
	}{
		"no client id": {
			map[string]string{"grant_type": "refresh_token", "client_id": "-"},
			refusal("invalid_request", "the following parameters are required: grant_type, client_id, client_secret. Missing parameters: client_id"),
		},
		"unknown application": {map[string]string{"grant_type": "refresh_token", "client_id": "99"}, wrong},
		"wrong secret":        {map[string]string{"grant_type": "refresh_token", "client_secret": "no"}, wrong},
		"unknown grant": {
			map[string]string{"grant_type": "password"},
			refusal("unsupported_grant_type", "unsupported grant_type"),
		},
		"no refresh token": {
			map[string]string{"grant_type": "refresh_token"},
			refusal("invalid_request", "the following parameters are required: refresh_token. Missing parameters: refresh_token"),
		},
		"another application's refresh token": {
			with(other, map[string]string{"grant_type": "refresh_token", "refresh_token": pair.text("refresh_token")}),
			refusal("invalid_grant", "the client_id does not match the original"),
		},
		"another application's code": {
			with(other, map[string]string{
				"grant_type": "authorization_code", "code": b.code(aurora, nil), "redirect_uri": redirectURI, "code_verifier": verifier,
			}),
			refusal("invalid_grant", "the client_id does not match the original"),
		},
		"no verifier where PKCE is on": {
			with(other, map[string]string{
				"grant_type": "authorization_code", "redirect_uri": redirectURI,
				"code": b.code(aurora, url.Values{"client_id": {"2222"}}),
			}),
			refusal("invalid_request", "code_verifier is a required parameter"),
		},
		"made-up refresh token": {
			map[string]string{"grant_type": "refresh_token", "refresh_token": "TG-0-1"},
			refusal("invalid_grant", deadGrant),
		},
	} {
		t.Run(name, func(t *testing.T) {
			status, a := b.token(test.fields)
			requireRefused(t, status, a, test.want)
		})
	}
	status, _ := b.refresh(pair.text("refresh_token"))
	require.Equal(t, http.StatusOK, status, "none of them may have spent the refresh token")
}

func TestVerifierMustFitTheChallenge(t *testing.T) {
	for name, test := range map[string]struct {
		asked    url.Values
		verifier string
		status   int
	}{
		"S256":                      {url.Values{"code_challenge": {challenge()}, "code_challenge_method": {"S256"}}, verifier, 200},
		"plain":                     {url.Values{"code_challenge": {verifier}, "code_challenge_method": {"plain"}}, verifier, 200},
		"Plain":                     {url.Values{"code_challenge": {verifier}, "code_challenge_method": {"Plain"}}, verifier, 200},
		"another verifier":          {url.Values{"code_challenge": {challenge()}, "code_challenge_method": {"S256"}}, verifier[1:] + "x", 400},
		"the challenge itself":      {url.Values{"code_challenge": {challenge()}, "code_challenge_method": {"S256"}}, challenge(), 400},
		"none for a challenge":      {url.Values{"code_challenge": {challenge()}, "code_challenge_method": {"S256"}}, "", 400},
		"one without any challenge": {nil, verifier, 400},
		"none without a challenge":  {nil, "", 200},
	} {
		t.Run(name, func(t *testing.T) {
			b := open(t)
			fields := map[string]string{
				"grant_type": "authorization_code", "code": b.code(aurora, test.asked), "redirect_uri": redirectURI,
			}
			if test.verifier != "" {
				fields["code_verifier"] = test.verifier
			}
			status, a := b.token(fields)
			require.Equal(t, test.status, status, a)
		})
	}
}

func TestRefreshRotatesAndASpentTokenIsNoticed(t *testing.T) {
	b := open(t)
	first := b.connect(aurora)
	status, second := b.refresh(first.text("refresh_token"))
	require.Equal(t, http.StatusOK, status)
	require.NotEqual(t, first.text("refresh_token"), second.text("refresh_token"))
	require.NotEqual(t, first.text("access_token"), second.text("access_token"))
	require.Equal(t, first.text("public_key"), second.text("public_key"))

	status, a := b.refresh(first.text("refresh_token"))
	requireRefused(t, status, a, refusal("invalid_grant", deadGrant))
	require.Equal(t, 1, b.Stats().RefreshReuse)

	status, _ = b.api("GET", "/users/me", first.text("access_token"), "")
	require.Equal(t, http.StatusOK, status, "the older access token lives on")
	status, _ = b.refresh(second.text("refresh_token"))
	require.Equal(t, http.StatusOK, status, "so does the living refresh token")
}

func TestReuseRevokesTheAccountWhereThatIsSwitchedOn(t *testing.T) {
	b := open(t)
	b.Change(func(s *sandbox.Settings) { s.ReuseRevokes = true })
	first := b.connect(aurora)
	neighbour := b.connect(porto)
	_, second := b.refresh(first.text("refresh_token"))
	status, _ := b.refresh(first.text("refresh_token"))
	require.Equal(t, http.StatusBadRequest, status)
	status, _ = b.refresh(second.text("refresh_token"))
	require.Equal(t, http.StatusBadRequest, status)
	status, _ = b.api("GET", "/users/me", second.text("access_token"), "")
	require.Equal(t, http.StatusUnauthorized, status)
	status, _ = b.refresh(neighbour.text("refresh_token"))
	require.Equal(t, http.StatusOK, status)
}

func TestNewConsentMakesOlderRefreshTokensUseless(t *testing.T) {
	b := open(t)
	first, second := b.connect(aurora), b.connect(aurora)
	status, a := b.refresh(first.text("refresh_token"))
	requireRefused(t, status, a, refusal("invalid_grant", deadGrant))
	require.Zero(t, b.Stats().RefreshReuse, "it was never used")
	status, _ = b.refresh(second.text("refresh_token"))
	require.Equal(t, http.StatusOK, status)
}

func TestOneOfManyRefreshesAtOnceWins(t *testing.T) {
	b := open(t)
	token := b.connect(aurora).text("refresh_token")
	statuses := make(chan int, 20)
	for range cap(statuses) {
		go func() {
			body := fmt.Sprintf("grant_type=refresh_token&client_id=%s&client_secret=%s&refresh_token=%s",
				clientID, url.QueryEscape(clientSecret), token)
			response, err := http.Post(b.url+"/oauth/token", "application/x-www-form-urlencoded", strings.NewReader(body))
			if err != nil {
				statuses <- 0
				return
			}
			response.Body.Close()
			statuses <- response.StatusCode
		}()
	}
	count := map[int]int{}
	for range cap(statuses) {
		count[<-statuses]++
	}
	require.Equal(t, map[int]int{200: 1, 400: 19}, count)
	require.Equal(t, 19, b.Stats().RefreshReuse)
}

func TestRefreshTokenDiesUnusedAfterItsLife(t *testing.T) {
	b := open(t)
	first := b.connect(aurora)
	b.later(179 * 24 * time.Hour)
	status, second := b.refresh(first.text("refresh_token"))
	require.Equal(t, http.StatusOK, status)
	b.later(180 * 24 * time.Hour)
	status, a := b.refresh(second.text("refresh_token"))
	requireRefused(t, status, a, refusal("invalid_grant", deadGrant))
}

func TestTestTokenIsNotLiveAndHasAPairOfItsOwn(t *testing.T) {
	b := open(t)
	live := b.connect(aurora)
	status, test := b.token(map[string]string{
		"grant_type": "authorization_code", "code": b.code(aurora, nil), "redirect_uri": redirectURI, "test_token": "true",
	})
	require.Equal(t, http.StatusOK, status)
	require.Equal(t, false, test["live_mode"])
	require.NotEqual(t, live.text("public_key"), test.text("public_key"))
	_, renewed := b.refresh(test.text("refresh_token"))
	require.Equal(t, false, renewed["live_mode"])
	status, _ = b.refresh(live.text("refresh_token"))
	require.Equal(t, http.StatusOK, status)
}

func TestClientCredentialsGiveTheApplicationsOwnToken(t *testing.T) {
	b := open(t)
	status, a := b.token(map[string]string{"grant_type": "client_credentials"})
	require.Equal(t, http.StatusOK, status)
	require.EqualValues(t, 21600, a["expires_in"])
	require.NotContains(t, a, "refresh_token")
	_, me := b.api("GET", "/users/me", a.text("access_token"), "")
	require.Equal(t, a["user_id"], me["id"])
	require.NotEqualValues(t, aurora, me["id"])
}

func TestSettingsChangeWhatIsGiven(t *testing.T) {
	b := open(t)
	b.SetAccessTokenLife(90 * time.Second)
	pair := b.connect(aurora)
	require.EqualValues(t, 90, pair["expires_in"])
	b.later(90 * time.Second)
	status, a := b.api("GET", "/users/me", pair.text("access_token"), "")
	require.Equal(t, http.StatusUnauthorized, status)
	require.Equal(t, "invalid access token", a.text("message"))

	b.Change(func(s *sandbox.Settings) {
		s.ShortRefreshAnswers, s.KeepRefreshToken, s.RefreshKillsAccess = true, true, true
	})
	pair = b.connect(aurora)
	_, a = b.refresh(pair.text("refresh_token"))
	for _, name := range []string{"user_id", "public_key", "live_mode", "refresh_token"} {
		require.NotContains(t, a, name)
	}
	status, _ = b.api("GET", "/users/me", pair.text("access_token"), "")
	require.Equal(t, http.StatusUnauthorized, status)
	status, _ = b.refresh(pair.text("refresh_token"))
	require.Equal(t, http.StatusOK, status)

	b.Change(func(s *sandbox.Settings) { s.ErrorShape = "error_key" })
	_, a = b.refresh("TG-none")
	require.Equal(t, "expired_grant", a.text("errorKey"))
	b.Change(func(s *sandbox.Settings) { s.ErrorShape = "error_description" })
	_, a = b.refresh("TG-none")
	require.Equal(t, answer{"error_description": deadGrant, "error": "invalid_grant", "status": 400.0, "cause": []any{}}, a)

	require.True(t, b.SetClientSecret(clientID, "renewed"))
	_, a = b.token(map[string]string{"grant_type": "client_credentials"})
	require.Equal(t, "invalid_client", a.text("error"))
	b.Reset()
	status, _ = b.token(map[string]string{"grant_type": "client_credentials"})
	require.Equal(t, http.StatusOK, status)
}

func TestScopeWithoutOfflineAccessGivesNoRefreshToken(t *testing.T) {
	b := open(t, func(o *sandbox.Options) { o.Applications[0].WithoutOfflineAccess = true })
	a := b.connect(aurora)
	require.NotContains(t, a, "refresh_token")
	require.Equal(t, "read write", a.text("scope"))
}

func TestRevokedAccountIsDeadAndKilledAccessTokensCanBeRefreshed(t *testing.T) {
	b := open(t)
	killed, revoked, pending := b.connect(aurora), b.connect(porto), b.code(porto, nil)
	b.KillAccessTokens(aurora)
	b.Revoke(porto)
	for _, pair := range []answer{killed, revoked} {
		status, _ := b.api("GET", "/users/me", pair.text("access_token"), "")
		require.Equal(t, http.StatusUnauthorized, status)
	}
	status, _ := b.refresh(killed.text("refresh_token"))
	require.Equal(t, http.StatusOK, status)
	status, _ = b.refresh(revoked.text("refresh_token"))
	require.Equal(t, http.StatusBadRequest, status)
	status, _ = b.exchange(pending)
	require.Equal(t, http.StatusBadRequest, status)
	status, _ = b.exchange(b.code(porto, nil))
	require.Equal(t, http.StatusOK, status, "a new consent mends it")
}

func TestIssuedListsEveryCodeAndToken(t *testing.T) {
	b := open(t)
	code := b.code(aurora, nil)
	_, first := b.exchange(code)
	_, second := b.refresh(first.text("refresh_token"))
	require.Equal(t, []string{
		code, first.text("access_token"), first.text("refresh_token"), second.text("access_token"), second.text("refresh_token"),
	}, b.Issued())
	userID, ok := b.AccessTokenOf(second.text("access_token"))
	require.True(t, ok)
	require.EqualValues(t, aurora, userID)
}

func TestAnyApplicationIsLetInWhereThatIsWanted(t *testing.T) {
	b := open(t, func(o *sandbox.Options) { o.AcceptAny = true })
	asked := url.Values{"client_id": {"777"}, "redirect_uri": {"http://localhost:3000/cb"}}
	status, a := b.token(map[string]string{
		"client_id": "777", "client_secret": "whatever", "grant_type": "authorization_code",
		"code": b.code(aurora, asked), "redirect_uri": "http://localhost:3000/cb",
	})
	require.Equal(t, http.StatusOK, status, a)
	status, _ = b.token(map[string]string{"client_secret": "whatever", "grant_type": "client_credentials"})
	require.Equal(t, http.StatusBadRequest, status, "a registered application keeps its secret")
	for _, target := range []string{
		"javascript:alert(1)", "javascript://shop/%0aalert(1)", "ftp://shop/", "/connect/callback", "//shop/", "https://a@shop/", "https://shop/#a",
	} {
		_, err := b.Approve(authorizationURL(url.Values{"redirect_uri": {target}}), aurora)
		require.Error(t, err, target)
	}
}
