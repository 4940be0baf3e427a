package demo

import (
	"io"
	"os"
	"strings"
	"text/template"

	"golang.org/x/term"
)

var welcomeText = template.Must(template.New("welcome").Parse(`
  {{.Bold}}A shop that takes payments for its sellers, and holds no secret{{.Plain}}

    Open   {{.Accent}}{{.ShopURL}}{{.Plain}}

  {{.Bold}}What to try{{.Plain}}
    1. Press "Connect Mercado Pago", choose an account and agree: you come back connected.
    2. Take a payment: the shop asks {{.EgressURL}} and sends no token, yet its seller is paid.
    3. Use another account, refuse, disconnect.
    4. Break something at {{.SandboxURL}}/_sandbox/: shorten lives, revoke, cause faults.

  {{.Bold}}By hand{{.Plain}}, once {{.Account.Nickname}} is connected
    curl -H 'X-Seller: {{.Account.UserID}}' {{.EgressURL}}/users/me

  {{.Faint}}No network, no real money. Caddy's log: {{.LogFile}}
  Ctrl-C stops everything.{{.Plain}}

`))

// welcome says where the demo is and what to try.
func (d *Demo) welcome(out io.Writer) {
	look := map[string]any{
		"ShopURL": d.ShopURL, "EgressURL": d.EgressURL, "SandboxURL": d.SandboxURL, "LogFile": d.LogFile,
		"Account": d.Sandbox.Accounts()[0],
		"Bold":    "", "Accent": "", "Faint": "", "Plain": "",
	}
	if colourful(out) {
		look["Bold"], look["Accent"], look["Faint"], look["Plain"] = "\x1b[1m", "\x1b[1;36m", "\x1b[2m", "\x1b[0m"
	}
	var text strings.Builder
	_ = welcomeText.Execute(&text, look) // a strings.Builder takes everything
	_, _ = io.WriteString(out, text.String())
}

// colourful tells whether out is a terminal whose owner has nothing against
// colours.
func colourful(out io.Writer) bool {
	file, ok := out.(*os.File)
	return ok && term.IsTerminal(int(file.Fd())) && os.Getenv("NO_COLOR") == "" && os.Getenv("TERM") != "dumb"
}
