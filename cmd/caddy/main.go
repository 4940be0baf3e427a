// Command caddy is Caddy with this module, for `go run ./cmd/caddy` and tests.
package main

import (
	caddycmd "github.com/caddyserver/caddy/v2/cmd"
	_ "github.com/caddyserver/caddy/v2/modules/standard"

	_ "github.com/caddy-mercadopago/caddy-mercadopago"
)

func main() { caddycmd.Main() }
