package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"testing"

	"github.com/stretchr/testify/require"
)

// callFrom asks egress whose the token is, from an address of this machine.
func callFrom(t *testing.T, from net.IP, address, seller string, header ...string) int {
	t.Helper()
	dialer := net.Dialer{LocalAddr: &net.TCPAddr{IP: from}, Timeout: patience}
	transport := &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return dialer.DialContext(ctx, "tcp", address)
		},
	}
	r, err := http.NewRequest(http.MethodGet, "http://egress.example/users/me", nil)
	require.NoError(t, err)
	r.Header.Set("X-Seller", seller)
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	response, err := transport.RoundTrip(r)
	require.NoError(t, err)
	defer response.Body.Close()
	_, err = io.Copy(io.Discard, response.Body)
	require.NoError(t, err)
	return response.StatusCode
}

// openEgress listens on every address of the machine, as a site without `bind`.
const openEgress = `
:$PORT {
	bind 0.0.0.0
	mercadopago {
		egress
		seller {http.request.header.X-Seller}
		$CLIENTS
	}
	reverse_proxy $APP
}
`

func (p *platform) openEgress(clients string) (port string) {
	p.t.Helper()
	_, port, err := net.SplitHostPort(newAddress(p.t))
	require.NoError(p.t, err)
	p.values["PORT"], p.values["CLIENTS"] = port, clients
	return port
}

func TestEgressIsRefusedToAnotherAddressOfThisMachine(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	port := p.openEgress("clients 127.0.0.1")
	p.serve(sessionSite + openEgress)
	p.visitor().connect(aurora)
	address := net.JoinHostPort("127.0.0.1", port)
	require.Equal(t, http.StatusOK, callFrom(t, net.IPv4(127, 0, 0, 1), address, id(aurora)))
	p.app.received()
	for _, header := range [][]string{
		nil,
		{"X-Forwarded-For", "127.0.0.1"},
		{"X-Real-Ip", "127.0.0.1"},
		{"Forwarded", "for=127.0.0.1"},
		{"X-Forwarded-For", "127.0.0.1, 127.0.0.1"},
		{"True-Client-Ip", "127.0.0.1"},
	} {
		require.Equal(t, http.StatusForbidden, callFrom(t, net.IPv4(127, 0, 0, 2), address, id(aurora), header...))
	}
	require.Empty(t, p.app.received(), "nothing of a stranger's request goes on")
}

// Who forgot `bind` is still not open to the network: by default only loopback
// may call.
func TestEgressIsForLoopbackAloneUnlessToldOtherwise(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	port := p.openEgress("")
	// A load balancer's PROXY protocol tells Caddy the connection's own address, so
	// that a machine with nothing but loopback can be called from elsewhere too.
	p.values["OPTIONS"] = fmt.Sprintf("\tservers 0.0.0.0:%s {\n\t\tlistener_wrappers {\n\t\t\tproxy_protocol {\n\t\t\t\tallow 127.0.0.1/32\n\t\t\t}\n\t\t}\n\t}\n", port)
	p.serve(sessionSite + openEgress)
	p.visitor().connect(aurora)
	for from, status := range map[string]int{
		"127.0.0.1": http.StatusOK, "127.8.9.10": http.StatusOK,
		"192.0.2.7": http.StatusForbidden, "10.0.0.1": http.StatusForbidden, "169.254.1.1": http.StatusForbidden,
	} {
		conn, err := net.Dial("tcp", net.JoinHostPort("127.0.0.1", port))
		require.NoError(t, err)
		_, err = fmt.Fprintf(conn, "PROXY TCP4 %s 127.0.0.1 4000 %s\r\nGET /users/me HTTP/1.1\r\nHost: egress\r\nX-Seller: %s\r\nConnection: close\r\n\r\n",
			from, port, id(aurora))
		require.NoError(t, err)
		response, err := http.ReadResponse(bufio.NewReader(conn), nil)
		require.NoError(t, err, from)
		require.NoError(t, response.Body.Close())
		require.NoError(t, conn.Close())
		require.Equal(t, status, response.StatusCode, from)
	}
	// And from every other address that this machine does have.
	addresses, err := net.InterfaceAddrs()
	require.NoError(t, err)
	for _, address := range addresses {
		ip, _, err := net.ParseCIDR(address.String())
		require.NoError(t, err)
		if ip = ip.To4(); ip == nil || ip.IsLoopback() {
			continue
		}
		require.Equal(t, http.StatusForbidden, callFrom(t, ip, net.JoinHostPort(ip.String(), port), id(aurora)), ip)
	}
}

func TestWhoIsRefusedIsToldWhere(t *testing.T) {
	parallel(t)
	p := newPlatform(t)
	p.values["CLIENTS"] = ""
	p.serve(sessionSite + strings.Replace(egressSite, "egress\n", "egress\n\t\tclients 192.0.2.7\n", 1))
	got := p.caller().me(id(aurora))
	require.Equal(t, http.StatusForbidden, got.status)
	require.Equal(t, "application/problem+json", got.header.Get("Content-Type"))
	require.Contains(t, got.body, "clients")
}
