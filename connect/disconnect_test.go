package connect

import (
	"net/http"
	"net/url"
	"testing"

	"github.com/stretchr/testify/require"
)

func TestAStoreThatFailsEndsNoSession(t *testing.T) {
	s := newSite(t, Config{})
	b := s.browser("")
	b.comeBack(b.begin(""), tienda())
	b.visit("/connect/disconnect", "same-origin")
	question := b.last
	fails := func(set func(m *memory, err error), do func()) {
		t.Helper()
		s.source.set(func(m *memory) { set(m, errStore) })
		do()
		require.Equal(t, CodeUnavailable, b.last.problem())
		require.Empty(t, b.last.header["Set-Cookie"])
		s.source.set(func(m *memory) { set(m, nil) })
	}
	reading := func(m *memory, err error) { m.connectionErr = err }
	fails(reading, func() { b.visit("/connect/disconnect", "same-origin") })
	b.last = question
	fails(reading, func() { b.press("") })
	b.last = question
	fails(func(m *memory, err error) { m.disconnectErr = err }, func() { b.press("") })
	require.Equal(t, []string{"241983636", "connection-1"}, sessionOf(t, b))

	b.last = question
	b.press("")
	b.follow()
	require.Equal(t, "Account disconnected", b.title())
}

func TestAVisitorWithoutASessionNeedsNoStore(t *testing.T) {
	s := newSite(t, Config{})
	s.source.set(func(m *memory) { m.connectionErr = errStore })
	b := s.browser("")
	b.visit("/connect", "none")
	require.Equal(t, "Connect your Mercado Pago account", b.title())
	b.visit("/connect/disconnect", "none")
	require.Equal(t, "No account is connected", b.title())
	require.Empty(t, b.last.header["Set-Cookie"], "there is no session to end")
}

func TestDisconnectingTwiceShowsTheSamePage(t *testing.T) {
	s := newSite(t, Config{SellerMode: true})
	b := s.browser("shop-42")
	b.comeBack(b.begin(""), tienda())
	b.visit("/connect/disconnect", "same-origin")
	question := b.last
	for range 2 {
		b.last = question
		b.press("")
		require.Equal(t, http.StatusSeeOther, b.last.status)
		b.follow()
		require.Equal(t, "Account disconnected", b.title())
	}
}

func TestAFormThatIsTooLongChangesNothing(t *testing.T) {
	s := newSite(t, Config{SellerMode: true, Confirm: true})
	b := s.browser("shop-42")
	long := func(address string, fields url.Values) {
		t.Helper()
		fields.Set("x", string(make([]byte, maxForm)))
		b.post(address, fields, s.server.URL)
		require.Equal(t, CodeBadRequest, b.last.problem())
	}
	b.comeBack(b.begin(""), tienda())
	action, fields := formOf(t, b.last.body)
	fields.Set("decision", "connect")
	question := b.last
	long(action, fields)
	require.Empty(t, s.source.connection("shop-42").ID)
	b.last = question
	b.press("connect")
	b.follow()
	require.Equal(t, "Account connected", b.title())

	b.visit("/connect/disconnect", "same-origin")
	action, fields = formOf(t, b.last.body)
	long(action, fields)
	require.NotEmpty(t, s.source.connection("shop-42").ID)

	long("/connect/link", url.Values{"link": {"x"}})
}
