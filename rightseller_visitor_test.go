package mercadopago

import (
	"fmt"
	"io"
	"net/http"
	"net/http/cookiejar"
	"net/url"
	"strings"

	"github.com/caddy-mercadopago/caddy-mercadopago/sandbox"
)

// visitor is a seller in a browser that follows no redirect by itself.
type visitor struct {
	client http.Client
	header http.Header
}

func (m *market) visitor(p *party) *visitor {
	v := &visitor{header: http.Header{"Sec-Fetch-Site": {"same-origin"}, "Accept": {"text/html"}}}
	v.client.Jar, _ = cookiejar.New(nil)
	v.client.Transport = m.transport
	v.client.CheckRedirect = func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse }
	if !p.shop.sessions {
		v.header.Set("X-User", p.name)
	} else if n := len(p.sessions); n > 0 { // the newest: only trade changes them, under changing
		v.header.Set("Cookie", p.sessions[n-1].cookie)
	}
	return v
}

func (v *visitor) do(method, address string, form url.Values) (reply, error) {
	request, err := http.NewRequest(method, address, strings.NewReader(form.Encode()))
	if err != nil {
		return reply{}, err
	}
	for name, values := range v.header {
		request.Header[name] = append([]string(nil), values...)
	}
	if form != nil {
		request.Header.Set("Content-Type", "application/x-www-form-urlencoded")
		request.Header.Set("Origin", request.URL.Scheme+"://"+request.URL.Host)
	}
	response, err := v.client.Do(request)
	if err != nil {
		return reply{}, err
	}
	defer response.Body.Close()
	body, err := io.ReadAll(response.Body)
	return reply{response.StatusCode, response.Header, string(body)}, err
}

// expect is do for a step whose answer must have this status.
func (v *visitor) expect(status int, method, address string, form url.Values) (reply, error) {
	got, err := v.do(method, address, form)
	if err == nil && got.status != status {
		err = fmt.Errorf("%s %s: %d %.300s", method, address, got.status, got.body)
	}
	return got, err
}

// connect returns the session's cookie, where there is one.
func (v *visitor) connect(site string, provider *sandbox.Sandbox, account int64) (string, error) {
	began, err := v.expect(http.StatusSeeOther, http.MethodGet, site+"/connect?return_to=/", nil)
	if err != nil {
		return "", err
	}
	callback, err := provider.Approve(began.header.Get("Location"), account)
	if err != nil {
		return "", err
	}
	back, err := v.expect(http.StatusOK, http.MethodGet, callback, nil)
	if err != nil {
		return "", err
	}
	end, err := v.do(http.MethodGet, site+strings.ReplaceAll(finishPattern.FindString(back.body), "&amp;", "&"), nil)
	if err != nil {
		return "", err
	}
	if to := end.header.Get("Location"); strings.Contains(to, "/confirm") {
		if end, err = v.do(http.MethodGet, site+to, nil); err != nil {
			return "", err
		}
	}
	if end.status == http.StatusOK {
		if end, err = v.press(site, end); err != nil {
			return "", err
		}
	}
	if to := end.header.Get("Location"); end.status != http.StatusSeeOther || to != site+"/" && to != "/" {
		return "", fmt.Errorf("the end of a connect flow: %d to %s %.300s", end.status, to, end.body)
	}
	u, err := url.Parse(site)
	for _, c := range v.client.Jar.Cookies(u) {
		if strings.Contains(c.Name, "session") {
			return c.Name + "=" + c.Value, err
		}
	}
	return "", err
}

// press presses the button of a page that asks: of several the one that connects.
func (v *visitor) press(site string, page reply) (reply, error) {
	form := formPattern.FindStringSubmatch(page.body)
	if form == nil {
		return reply{}, fmt.Errorf("a page without a form: %d %.300s", page.status, page.body)
	}
	values := url.Values{}
	for _, field := range fieldPattern.FindAllStringSubmatch(form[0], -1) {
		if !values.Has(field[1]) || field[2] == "connect" {
			values.Set(field[1], field[2])
		}
	}
	return v.expect(http.StatusSeeOther, http.MethodPost, site+strings.ReplaceAll(form[1], "&amp;", "&"), values)
}

func (v *visitor) disconnect(site string) error {
	page, err := v.expect(http.StatusOK, http.MethodGet, site+"/connect/disconnect", nil)
	if err != nil || formPattern.FindString(page.body) == "" {
		return err // there is nothing to end
	}
	done, err := v.press(site, page)
	if err == nil && !strings.HasSuffix(done.header.Get("Location"), "?done") {
		err = fmt.Errorf("a disconnect that leads to %s", done.header.Get("Location"))
	}
	return err
}
