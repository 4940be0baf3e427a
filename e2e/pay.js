// Takes a payment, makes a preference and asks who it is, with Mercado Pago's
// official SDK, as an app behind egress would: the address of the API is another,
// and the token it must be given is a dummy.
'use strict'
const { AppConfig } = require('mercadopago/dist/utils/config')
const { MercadoPagoConfig, Payment, Preference, User } = require('mercadopago')

const [egress, seller] = process.argv.slice(2)
AppConfig.BASE_URL = egress
const config = new MercadoPagoConfig({ accessToken: 'a-dummy-of-the-sdk', options: { timeout: 30000, maxRetries: 0 } })

// The SDK has no way to name a header of one's own; whom an app acts for it says
// in one all the same, as every HTTP client can.
const send = globalThis.fetch
globalThis.fetch = (address, options) => send(address, { ...options, headers: { ...options.headers, 'X-Seller': seller } })

async function main () {
	const made = await new Payment(config).create({
		body: { transaction_amount: 150, description: 'mate', payment_method_id: 'visa', installments: 1, token: 'a-card-token', payer: { email: 'buyer@example.com' } },
		requestOptions: { idempotencyKey: 'order-' + seller },
	})
	const again = await new Payment(config).create({
		body: { transaction_amount: 150, description: 'mate', payment_method_id: 'visa', installments: 1, token: 'a-card-token', payer: { email: 'buyer@example.com' } },
		requestOptions: { idempotencyKey: 'order-' + seller },
	})
	const payment = await new Payment(config).get({ id: made.id })
	const preference = await new Preference(config).create({ body: { items: [{ id: '1', title: 'mate', quantity: 2, unit_price: 75 }] } })
	const user = await new User(config).get()
	console.log(JSON.stringify({
		made: made.id, again: again.id, status: payment.status, collector: payment.collector_id,
		preference: preference.collector_id, user: user.id,
	}))
}

main().catch(error => {
	console.error(error)
	process.exitCode = 1
})
