package mercadopago

import (
	"net/http"
	"net/url"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/connect"
)

func TestStrangersMayNotCallEgress(t *testing.T) {
	var e Egress
	require.NoError(t, e.provision())
	r := &http.Request{RemoteAddr: "127.0.0.1:1", URL: &url.URL{Path: "/v1/payments"}, Header: http.Header{}}
	require.Empty(t, e.refuses(r))
	r.RemoteAddr = "192.0.2.1:1"
	r.Header.Set("X-Forwarded-For", "127.0.0.1")
	require.Equal(t, connect.CodeForbiddenPeer, e.refuses(r))
}

// egressTo is an egress site whose API is the rig's app.
func egressTo(options string) string {
	return sellerSite + strings.NewReplacer("egress\n", "egress\n\t\t"+options+"\n", "reverse_proxy API", "reverse_proxy APP").Replace(egressSite)
}

func TestAnOldStyleTokenInTheQueryDoesNotGoOn(t *testing.T) {
	r := newRig(t)
	r.load(egressTo(""))
	r.connectSeller("shop-1", aurora)
	r.call(http.MethodGet, r.at("EGRESS")+"/v1/payments?a=1&access_token=own&b=2", nil, http.Header{"X-Seller": {"shop-1"}})
	require.Equal(t, "a=1&b=2", r.app.last().URL.RawQuery)
}
