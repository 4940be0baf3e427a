package sandbox

import (
	"net/http"
	"strconv"
	"strings"
)

// texts are the words of the consent page in one language.
type texts struct {
	Lang, Sandbox, Title, Wants, Choose, As, Another, Approve, Deny  string
	Can, CanRead, CanCharge, CanStay, Back, ErrorTitle, Error, Cause string
}

var languages = map[string]*texts{
	"es": {
		Lang: "es", Sandbox: "Sandbox – no hay dinero real",
		Title: "Conectar con Mercado Pago", Wants: "quiere conectarse con tu cuenta de Mercado Pago",
		Choose: "¿Con qué cuenta de prueba?", As: "Iniciaste sesión como", Another: "Usar otra cuenta",
		Approve: "Permitir", Deny: "No permitir",
		Can: "Podrá", CanRead: "Ver los datos de tu cuenta y tus ventas", CanCharge: "Cobrar en tu nombre: el dinero es tuyo",
		CanStay: "Mantener el acceso hasta que se lo quites", Back: "Después volverás a",
		ErrorTitle: "La aplicación no pudo conectarse",
		Error:      "La aplicación no está preparada para conectarse con Mercado Pago. Vuelve a intentarlo más tarde o avisa a quien la ofrece.",
		Cause:      "Solo el sandbox lo cuenta:",
	},
	"pt": {
		Lang: "pt-BR", Sandbox: "Sandbox – não há dinheiro de verdade",
		Title: "Conectar com o Mercado Pago", Wants: "quer se conectar à sua conta do Mercado Pago",
		Choose: "Com qual conta de teste?", As: "Você entrou como", Another: "Usar outra conta",
		Approve: "Permitir", Deny: "Não permitir",
		Can: "Vai poder", CanRead: "Ver os dados da sua conta e as suas vendas", CanCharge: "Cobrar em seu nome: o dinheiro é seu",
		CanStay: "Manter o acesso até você retirar", Back: "Depois você volta para",
		ErrorTitle: "O aplicativo não conseguiu se conectar",
		Error:      "O aplicativo não está pronto para se conectar ao Mercado Pago. Tente mais tarde ou avise quem o oferece.",
		Cause:      "Só o sandbox conta:",
	},
	"en": {
		Lang: "en", Sandbox: "Sandbox – no real money",
		Title: "Connect Mercado Pago", Wants: "wants to connect to your Mercado Pago account",
		Choose: "Which test account?", As: "You are logged in as", Another: "Use another account",
		Approve: "Approve", Deny: "Deny",
		Can: "It will be able to", CanRead: "See your account's details and your sales", CanCharge: "Take payments in your name: the money is yours",
		CanStay: "Keep its access until you take it away", Back: "You will go back to",
		ErrorTitle: "The application could not connect",
		Error:      "The application is not ready to connect to Mercado Pago. Try again later, or tell whoever offers it.",
		Cause:      "Only the sandbox tells:",
	},
}

// language picks the reader's best of the three, Spanish where there is none.
func language(r *http.Request) *texts {
	best, weight := languages["es"], 0.0
	for _, part := range strings.SplitN(r.Header.Get("Accept-Language"), ",", 20) {
		tag, parameters, _ := strings.Cut(strings.TrimSpace(part), ";")
		primary, _, _ := strings.Cut(strings.ToLower(strings.TrimSpace(tag)), "-")
		q := 1.0
		if value, given := strings.CutPrefix(strings.TrimSpace(parameters), "q="); given {
			parsed, err := strconv.ParseFloat(value, 64)
			if err != nil {
				continue
			}
			q = parsed
		}
		if own := languages[primary]; own != nil && q > weight {
			best, weight = own, q
		}
	}
	return best
}
