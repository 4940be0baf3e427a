package mercadopago

import (
	"strconv"
	"strings"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/modules/caddyhttp"
	"github.com/dustin/go-humanize"
)

// once refuses an option that is written twice.
type once map[string]bool

func (o once) note(d *caddyfile.Dispenser) error {
	if o[d.Val()] {
		return d.Errf("%s already specified", d.Val())
	}
	o[d.Val()] = true
	return nil
}

func noArgs(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.ArgErr()
	}
	return nil
}

func oneArg(d *caddyfile.Dispenser, into *string) error {
	if !d.AllArgs(into) || *into == "" {
		return d.ArgErr()
	}
	return nil
}

func onOff(d *caddyfile.Dispenser) (bool, error) {
	option := d.Val()
	var word string
	if !d.AllArgs(&word) || (word != "on" && word != off) {
		return false, d.Errf("%s: write on or off", option)
	}
	return word == "on", nil
}

func duration(d *caddyfile.Dispenser, into *caddy.Duration) error {
	option := d.Val()
	var text string
	if !d.AllArgs(&text) {
		return d.ArgErr()
	}
	parsed, err := caddy.ParseDuration(text)
	if err != nil || parsed <= 0 {
		return d.Errf("%s %s: write a duration such as 5m or 30d", option, text)
	}
	*into = caddy.Duration(parsed)
	return nil
}

func number(d *caddyfile.Dispenser, most int, into *int) error {
	option := d.Val()
	var text string
	if !d.AllArgs(&text) {
		return d.ArgErr()
	}
	parsed, err := strconv.Atoi(text)
	if err != nil || parsed < 1 || parsed > most {
		return d.Errf("%s %s: write a number from 1 to %d", option, text, most)
	}
	*into = parsed
	return nil
}

func size(d *caddyfile.Dispenser, into **int64) error {
	option := d.Val()
	var text string
	if !d.AllArgs(&text) {
		return d.ArgErr()
	}
	parsed, err := humanize.ParseBytes(text)
	if err != nil || parsed > maxReplayBodyLimit {
		return d.Errf("%s %s: write a size from 0 to 16MiB, such as 64KiB", option, text)
	}
	bytes := int64(parsed)
	*into = &bytes
	return nil
}

func allow(d *caddyfile.Dispenser, into *[]Allow) error {
	args := d.RemainingArgs()
	if len(args) < 2 {
		return d.Err("allow: write a method, or several with commas, or *, and then paths: allow POST /v1/payments")
	}
	entry := Allow{Paths: args[1:]}
	if args[0] != "*" {
		entry.Methods = strings.Split(args[0], ",")
	}
	if err := entry.check(); err != nil {
		return d.Errf("allow %s: %v", strings.Join(args, " "), err)
	}
	*into = append(*into, entry)
	return nil
}

func clients(d *caddyfile.Dispenser, into *[]string) error {
	args := d.RemainingArgs()
	if len(args) == 0 {
		return d.ArgErr()
	}
	for _, arg := range args {
		if arg == "private_ranges" {
			*into = append(*into, caddyhttp.PrivateRangesCIDR()...)
			continue
		}
		if _, err := parsePrefix(arg); err != nil {
			return d.Errf("clients %s: write an IP address, a range such as 10.0.0.0/8, or private_ranges", arg)
		}
		*into = append(*into, arg)
	}
	return nil
}
