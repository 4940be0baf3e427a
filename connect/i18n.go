package connect

import (
	_ "embed"
	"encoding/json"
	"fmt"
	"net/http"
	"strings"

	"golang.org/x/text/language"
)

// languages are those of texts.json, in its order.
var languages = [...]string{"es-419", "pt-BR", "en"}

const (
	spanish = iota
	portuguese
	englishWords
)

//go:embed texts.json
var textsFile []byte

// texts holds each text in each language, by its key.
var texts = func() map[string][len(languages)]string {
	var table map[string][len(languages)]string
	if err := json.Unmarshal(textsFile, &table); err != nil {
		panic("connect: texts.json: " + err.Error())
	}
	return table
}()

var matcher = language.NewMatcher([]language.Tag{language.LatinAmericanSpanish, language.BrazilianPortuguese, language.English})

// maxAcceptLanguage bounds what is parsed of Accept-Language.
const maxAcceptLanguage = 256

// languageOf returns the language for a request: Spanish where it asks for none,
// English where it asks for one that we do not have.
func languageOf(r *http.Request) int {
	accept := strings.Join(r.Header["Accept-Language"], ",")
	if accept == "*" || len(accept) > maxAcceptLanguage {
		return spanish
	}
	tags, _, _ := language.ParseAcceptLanguage(accept)
	if len(tags) == 0 { // none, or an error
		return spanish
	}
	_, i, confidence := matcher.Match(tags...)
	if confidence == language.No {
		return englishWords
	}
	return i
}

func translate(words int, key string, args ...any) string {
	text, ok := texts[key]
	if !ok {
		return key
	}
	return fmt.Sprintf(text[words], args...)
}

// english is for programs: what they show or match should not change with a
// header.
func english(key string) string { return translate(englishWords, key) }
