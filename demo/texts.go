package demo

import (
	"net/http"

	"golang.org/x/text/language"
	"golang.org/x/text/message"
	"golang.org/x/text/number"
)

// texts are the shop's words in one language.
type texts struct {
	Lang, locale string

	ShopName, Tagline, SignedIn, Visit                                    string
	SellerTitle, NotConnected, Why, Connect                               string
	ActsFor, AccountNumber, Unknown, Another, Disconnect                  string
	CartTitle, Mate, Yerba, Bombilla, More, Less, Total, Pay, ConnectToBe string
	EmptyCart, NotPaid, NoPayment                                         string
	ReceiptTitle, PaidTo, PaymentNumber, Status, Approved, NoToken, Again string
	HowTitle, HowIngress, HowEgress, HowSecret                            string
}

// name is a product's name.
func (t *texts) name(key string) string {
	return map[string]string{"mate": t.Mate, "yerba": t.Yerba, "bombilla": t.Bombilla}[key]
}

// money writes an amount as it is written where the language is spoken.
func (t *texts) money(amount float64) string {
	return message.NewPrinter(language.Make(t.locale)).Sprintf("$ %v", number.Decimal(amount, number.MaxFractionDigits(2)))
}

// textsFor picks the language that the browser asks for, Spanish if it asks for
// none of ours.
func textsFor(r *http.Request) *texts {
	_, index := language.MatchStrings(languages, r.Header.Get("Accept-Language"))
	return translations[index]
}

var languages = language.NewMatcher([]language.Tag{language.Spanish, language.Portuguese, language.English})

var translations = []*texts{{
	Lang: "es", locale: "es-AR",
	ShopName: "Casa Lapacho", Tagline: "Mates y yerba, de a poco",
	SignedIn: "Caja abierta", Visit: "turno",
	SellerTitle: "Quién cobra", NotConnected: "Todavía no hay quién cobre",
	Why:     "Conectá una cuenta de Mercado Pago y las ventas de esta tienda se le pagan a ella.",
	Connect: "Conectar Mercado Pago",
	ActsFor: "Esta tienda cobra para", AccountNumber: "Cuenta", Unknown: "Mercado Pago no dijo el nombre de la cuenta.",
	Another: "Usar otra cuenta", Disconnect: "Desconectar",
	CartTitle: "Carrito", Mate: "Mate de cerámica", Yerba: "Yerba orgánica, 500 g", Bombilla: "Bombilla de alpaca",
	More: "Uno más:", Less: "Uno menos:", Total: "Total", Pay: "Cobrar", ConnectToBe: "Para cobrar, primero conectá una cuenta.",
	EmptyCart: "No hay nada que cobrar: el carrito está vacío.", NotPaid: "No se cobró nada.", NoPayment: "Ese pago no se pudo leer.",
	ReceiptTitle: "Pago recibido", PaidTo: "Le pagaron a", PaymentNumber: "Pago n.º", Status: "Estado", Approved: "aprobado",
	NoToken: "La tienda no envió ningún token: dijo quién cobra, y Caddy puso el resto.", Again: "Nueva venta",
	HowTitle:   "Qué hay detrás",
	HowIngress: "Caddy le dice a la tienda, en cada pedido, quién cobra, y le da su token.",
	HowEgress:  "Para cobrar, la tienda llama a Caddy sin token; Caddy pone el de quien cobra.",
	HowSecret:  "La tienda no guarda ningún secreto: ni tokens, ni claves, ni renovaciones.",
}, {
	Lang: "pt", locale: "pt-BR",
	ShopName: "Casa Lapacho", Tagline: "Cuias e erva-mate, sem pressa",
	SignedIn: "Caixa aberto", Visit: "turno",
	SellerTitle: "Quem recebe", NotConnected: "Ainda não há quem receba",
	Why:     "Conecte uma conta do Mercado Pago e as vendas desta loja são pagas a ela.",
	Connect: "Conectar Mercado Pago",
	ActsFor: "Esta loja recebe para", AccountNumber: "Conta", Unknown: "O Mercado Pago não disse o nome da conta.",
	Another: "Usar outra conta", Disconnect: "Desconectar",
	CartTitle: "Carrinho", Mate: "Cuia de cerâmica", Yerba: "Erva-mate orgânica, 500 g", Bombilla: "Bomba de alpaca",
	More: "Mais um:", Less: "Menos um:", Total: "Total", Pay: "Cobrar", ConnectToBe: "Para cobrar, conecte primeiro uma conta.",
	EmptyCart: "Não há nada a cobrar: o carrinho está vazio.", NotPaid: "Nada foi cobrado.", NoPayment: "Não foi possível ler esse pagamento.",
	ReceiptTitle: "Pagamento recebido", PaidTo: "Pago a", PaymentNumber: "Pagamento n.º", Status: "Situação", Approved: "aprovado",
	NoToken: "A loja não enviou nenhum token: disse quem recebe, e o Caddy pôs o resto.", Again: "Nova venda",
	HowTitle:   "O que há por trás",
	HowIngress: "A cada pedido, o Caddy diz à loja quem recebe e lhe dá o token.",
	HowEgress:  "Para cobrar, a loja chama o Caddy sem token; o Caddy põe o de quem recebe.",
	HowSecret:  "A loja não guarda nenhum segredo: nem tokens, nem chaves, nem renovações.",
}, {
	Lang: "en", locale: "en-US",
	ShopName: "Casa Lapacho", Tagline: "Mate cups and yerba, unhurried",
	SignedIn: "Till open", Visit: "shift",
	SellerTitle: "Who is paid", NotConnected: "Nobody is paid yet",
	Why:     "Connect a Mercado Pago account, and this shop's sales are paid to it.",
	Connect: "Connect Mercado Pago",
	ActsFor: "This shop takes payments for", AccountNumber: "Account", Unknown: "Mercado Pago did not tell the account's name.",
	Another: "Use another account", Disconnect: "Disconnect",
	CartTitle: "Cart", Mate: "Ceramic mate cup", Yerba: "Organic yerba, 500 g", Bombilla: "Alpaca straw",
	More: "One more:", Less: "One less:", Total: "Total", Pay: "Take a payment", ConnectToBe: "To take a payment, connect an account first.",
	EmptyCart: "There is nothing to pay: the cart is empty.", NotPaid: "Nothing was paid.", NoPayment: "That payment could not be read.",
	ReceiptTitle: "Payment received", PaidTo: "Paid to", PaymentNumber: "Payment no.", Status: "Status", Approved: "approved",
	NoToken: "The shop sent no token: it said who is paid, and Caddy did the rest.", Again: "Another sale",
	HowTitle:   "What is behind it",
	HowIngress: "With every request Caddy tells the shop who is paid, and hands it the token.",
	HowEgress:  "To take a payment the shop calls Caddy with no token; Caddy adds the payee's.",
	HowSecret:  "The shop keeps no secret: no tokens, no keys, nothing to renew.",
}}
