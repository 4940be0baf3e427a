package demo

import (
	"bytes"
	"crypto/rand"
	_ "embed"
	"encoding/hex"
	"errors"
	"html/template"
	"log"
	"net/http"
	"strconv"
	"strings"
	"time"
)

//go:embed shop.css
var style []byte

//go:embed page.html
var pageText string

var page = template.Must(template.New("page").Parse(pageText))

// product is something to sell, with its price in whole pesos or reais.
type product struct {
	Key   string
	Price int
}

var products = []product{{"mate", 18500}, {"yerba", 6200}, {"bombilla", 11900}}

const (
	loginCookie = "shop_login"
	cartCookie  = "shop_cart"
	maxQuantity = 9
)

// shop is the sample shop: an app such as stands behind Caddy. It holds no
// secret of Mercado Pago's. Whom it acts for, Caddy tells it with each request:
// the token in Authorization, the seller in X-Seller.
type shop struct {
	api *api
}

// newShop makes the shop. It asks egress for everything that has to do with
// money, and api only who the token it received belongs to.
func newShop(egressURL, apiURL string) http.Handler {
	s := &shop{newAPI(egressURL, apiURL)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /{$}", s.home)
	mux.HandleFunc("GET /shop.css", serveStyle)
	mux.HandleFunc("POST /cart", s.changeCart)
	mux.HandleFunc("POST /payments", s.pay)
	mux.HandleFunc("GET /payments/{id}", s.receipt)
	return headers(http.NewCrossOriginProtection().Handler(mux))
}

func headers(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		h := w.Header()
		h.Set("Content-Security-Policy", "default-src 'none'; style-src 'self'; img-src data:; form-action 'self'; base-uri 'none'; frame-ancestors 'none'")
		h.Set("Referrer-Policy", "same-origin")
		h.Set("X-Content-Type-Options", "nosniff")
		h.Set("Cache-Control", "no-store")
		r.Body = http.MaxBytesReader(w, r.Body, 4<<10)
		next.ServeHTTP(w, r)
	})
}

func serveStyle(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "text/css; charset=utf-8")
	_, _ = w.Write(style)
}

// view is what the page shows.
type view struct {
	*texts
	Login    string
	Since    string
	Received bool     // a token came with the request
	Seller   string   // as Caddy named it
	Account  *account // nil where Mercado Pago did not say
	Cart     []line
	Sum      string
	Order    string // names this order: paying it twice pays it once
	Receipt  *receipt
	Problem  string
}

type line struct {
	Key, Name, Price string
	Quantity         int
}

type receipt struct {
	payment

	Amount string
	Payee  *account
}

func (s *shop) home(w http.ResponseWriter, r *http.Request) {
	s.show(w, r, http.StatusOK, view{})
}

// changeCart takes one more or one less of a product.
func (s *shop) changeCart(w http.ResponseWriter, r *http.Request) {
	quantities := readCart(r)
	for i, p := range products {
		switch r.PostFormValue("change") {
		case "more-" + p.Key:
			quantities[i] = min(quantities[i]+1, maxQuantity)
		case "less-" + p.Key:
			quantities[i] = max(quantities[i]-1, 0)
		}
	}
	fields := make([]string, len(quantities))
	for i, n := range quantities {
		fields[i] = strconv.Itoa(n)
	}
	setCookie(w, cartCookie, strings.Join(fields, "."))
	http.Redirect(w, r, "/#cart", http.StatusSeeOther)
}

// pay takes the payment for the seller that Caddy named. The shop says whom it
// acts for and sends no token: it is egress that has one.
func (s *shop) pay(w http.ResponseWriter, r *http.Request) {
	t := textsFor(r)
	order := r.PostFormValue("order")
	total := 0
	for i, n := range readCart(r) {
		total += n * products[i].Price
	}
	if len(order) > 64 || order == "" || total == 0 {
		s.show(w, r, http.StatusBadRequest, view{Problem: t.EmptyCart})
		return
	}
	paid, err := s.api.pay(r.Context(), r.Header.Get("X-Seller"), order, total, t.ShopName)
	if err != nil {
		s.show(w, r, http.StatusBadGateway, view{Problem: t.NotPaid + " " + explain(err)})
		return
	}
	http.Redirect(w, r, "/payments/"+strconv.FormatInt(paid.ID, 10), http.StatusSeeOther)
}

// receipt shows who was paid, as Mercado Pago tells it.
func (s *shop) receipt(w http.ResponseWriter, r *http.Request) {
	t, seller := textsFor(r), r.Header.Get("X-Seller")
	id, err := strconv.ParseInt(r.PathValue("id"), 10, 64)
	if err != nil || id <= 0 {
		s.show(w, r, http.StatusNotFound, view{Problem: t.NoPayment})
		return
	}
	paid, err := s.api.payment(r.Context(), seller, id)
	if err != nil {
		s.show(w, r, http.StatusBadGateway, view{Problem: t.NoPayment + " " + explain(err)})
		return
	}
	shown := &receipt{payment: paid, Amount: t.money(paid.Amount)}
	if payee, err := s.api.payee(r.Context(), seller); err == nil && payee.ID == paid.CollectorID {
		shown.Payee = &payee
	}
	s.show(w, r, http.StatusOK, view{Receipt: shown})
}

// show fills in what every page has, and writes it.
func (s *shop) show(w http.ResponseWriter, r *http.Request, status int, v view) {
	v.texts = textsFor(r)
	v.Login, v.Since = login(w, r)
	v.Order = newID(12)
	v.Seller = r.Header.Get("X-Seller")
	// The token is looked at once, to ask whose it is, and shown to nobody.
	if token := r.Header.Get("Authorization"); token != "" {
		v.Received = true
		if who, err := s.api.whose(r.Context(), token); err == nil {
			v.Account = &who
		}
	}
	total := 0
	for i, n := range readCart(r) {
		p := products[i]
		total += n * p.Price
		v.Cart = append(v.Cart, line{p.Key, v.name(p.Key), v.money(float64(p.Price)), n})
	}
	if total > 0 {
		v.Sum = v.money(float64(total))
	}
	var body bytes.Buffer
	if err := page.Execute(&body, v); err != nil {
		log.Printf("the shop's page cannot be written: %v", err)
		http.Error(w, http.StatusText(http.StatusInternalServerError), http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", "text/html; charset=utf-8")
	w.WriteHeader(status)
	_, _ = w.Write(body.Bytes())
}

// login tells who is at the counter. The shop's own cookie is SameSite=Strict:
// a browser that comes back from another site would come without it, and be
// given a new one, if the connect flow did not see to that.
func login(w http.ResponseWriter, r *http.Request) (id, since string) {
	if cookie, err := r.Cookie(loginCookie); err == nil {
		id, stamp, _ := strings.Cut(cookie.Value, ".")
		if seconds, err := strconv.ParseInt(stamp, 10, 64); err == nil && len(id) == 8 {
			return strings.ToUpper(id[:4]), time.Unix(seconds, 0).Format("15:04")
		}
	}
	now := time.Now()
	id = newID(4)
	setCookie(w, loginCookie, id+"."+strconv.FormatInt(now.Unix(), 10))
	return strings.ToUpper(id[:4]), now.Format("15:04")
}

// readCart reads the quantities, one for each product; a new visitor finds
// something in the cart.
func readCart(r *http.Request) []int {
	quantities := make([]int, len(products))
	cookie, err := r.Cookie(cartCookie)
	if err != nil {
		return append(quantities[:0], 1, 2, 0)
	}
	for i, field := range strings.SplitN(cookie.Value, ".", len(products)) {
		if n, err := strconv.Atoi(field); err == nil && n > 0 && n <= maxQuantity {
			quantities[i] = n
		}
	}
	return quantities
}

func setCookie(w http.ResponseWriter, name, value string) {
	http.SetCookie(w, &http.Cookie{ //nolint:gosec // not Secure: the demo is plain http on loopback, and Safari would drop it
		Name: name, Value: value, Path: "/", HttpOnly: true, SameSite: http.SameSiteStrictMode,
	})
}

func newID(bytes int) string {
	b := make([]byte, bytes)
	_, _ = rand.Read(b) // never fails: it ends the process instead
	return hex.EncodeToString(b)
}

// explain says, for a person, why something was refused.
func explain(err error) string {
	if refused, ok := errors.AsType[*refusal](err); ok {
		return refused.Error()
	}
	return ""
}
