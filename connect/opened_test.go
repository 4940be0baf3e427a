package connect

import (
	"errors"
	"fmt"
	"hash/maphash"
	"testing"

	"github.com/stretchr/testify/require"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

func TestASessionThatWasOpenedIsOpenedAgainWithAnotherKeyring(t *testing.T) {
	source := newMemory(t)
	f, err := New(Config{Client: client(shop + "/connect/callback"), Source: source, Prefix: "/connect"})
	require.NoError(t, err)
	r := withSession(t, f, tokenstore.Connection{ID: "c", Seller: "241983636"})
	for range 2 {
		seller, _, err := f.Session(r)
		require.NoError(t, err)
		require.Equal(t, "241983636", seller)
	}
	sealedWith := source.keyring
	source.keyringErr = errors.New("not now")
	_, _, err = f.Session(r)
	require.Error(t, err)
	source.keyringErr, source.keyring = nil, newMemory(t).keyring
	seller, _, err := f.Session(r)
	require.NoError(t, err)
	require.Empty(t, seller, "the key that sealed it is not configured any more")
	source.keyring = sealedWith
	seller, _, err = f.Session(r)
	require.NoError(t, err)
	require.Equal(t, "241983636", seller)
}

func TestEverySessionIsItsOwnHoweverManyWereOpened(t *testing.T) {
	source := newMemory(t)
	f, err := New(Config{Client: client(shop + "/connect/callback"), Source: source, Prefix: "/connect"})
	require.NoError(t, err)
	for n := range 3 * len(f.opened.places) { // each place is taken from others, again and again
		name := fmt.Sprint("seller-", n)
		r := withSession(t, f, tokenstore.Connection{ID: "c-" + name, Seller: name})
		for range 2 {
			seller, connection, err := f.Session(r)
			require.NoError(t, err)
			require.Equal(t, []string{name, "c-" + name}, []string{seller, connection})
		}
	}
}

func TestAnotherCookieWithTheSameHashIsAnotherSession(t *testing.T) {
	o := &openedSessions{seed: maphash.MakeSeed()}
	keyring := newMemory(t).keyring
	hash := maphash.String(o.seed, "mine")
	o.places[hash%uint64(len(o.places))].Store(&openedSession{hash, "another's", keyring, session{seller: "241983636"}})
	_, found := o.find(keyring, "mine")
	require.False(t, found)
}
