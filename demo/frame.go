package demo

import (
	"encoding/json"
	"errors"
	"fmt"
	"regexp"
	"strings"
)

// setting matches {$MP_SHOP:http://localhost:9300} and its like.
var setting = regexp.MustCompile(`\{\$(MP_[A-Z]+):[^{}]*\}`)

// caddyfile puts the demo's addresses into Caddyfile.example. It does so in the
// text, not through the environment: a variable that happens to be set in
// someone's shell must not send the demo elsewhere.
func (d *Demo) caddyfile(example []byte) []byte {
	values := map[string]string{
		"MP_SHOP":    d.ShopURL,
		"MP_EGRESS":  d.EgressURL,
		"MP_SANDBOX": d.SandboxURL,
		"MP_APP":     d.app,
	}
	return setting.ReplaceAllFunc(example, func(found []byte) []byte {
		if value, ok := values[string(setting.FindSubmatch(found)[1])]; ok {
			return []byte(value)
		}
		return found
	})
}

// frame adds to Caddyfile.example what is the demo's alone: everything it writes
// goes to its own folder, and nobody reaches it over the network.
func (d *Demo) frame(adapted []byte) ([]byte, error) {
	var config map[string]any
	if err := json.Unmarshal(adapted, &config); err != nil {
		return nil, fmt.Errorf("reading the demo's configuration: %w", err)
	}
	config["admin"] = map[string]any{"disabled": true, "config": map[string]any{"persist": false}}
	config["storage"] = map[string]any{"module": "file_system", "root": d.storage}
	// The terminal is for people. The default log is kept there, and silent:
	// redirecting it would make Caddy say so, there, in JSON.
	config["logging"] = map[string]any{"logs": map[string]any{
		"default": map[string]any{"level": "PANIC"},
		"demo": map[string]any{"writer": map[string]any{
			"output": "file", "filename": d.LogFile, "roll_size_mb": 10, "roll_keep": 1,
		}},
	}}
	apps, _ := config["apps"].(map[string]any)
	web, _ := apps["http"].(map[string]any)
	servers, _ := web["servers"].(map[string]any)
	if len(servers) == 0 {
		return nil, errors.New("the demo's Caddyfile has no site")
	}
	// Ctrl-C does not wait for a browser that keeps its connection.
	web["grace_period"] = "1s"
	for _, server := range servers {
		listenOnLoopback(server)
	}
	return json.Marshal(config)
}

func listenOnLoopback(server any) {
	fields, _ := server.(map[string]any)
	addresses, _ := fields["listen"].([]any)
	for i, address := range addresses {
		if text, _ := address.(string); strings.HasPrefix(text, ":") {
			addresses[i] = "127.0.0.1" + text
		}
	}
}
