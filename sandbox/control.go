package sandbox

import (
	"net/http"
)

const controlPath = "/_sandbox/"

func (s *Sandbox) controlling() http.Handler {
	return http.NotFoundHandler()
}

func shortDuration(d Duration) string { return "" }
