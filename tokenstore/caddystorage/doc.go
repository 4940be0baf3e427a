// Package caddystorage is a [tokenstore.Store] on CertMagic storage: Caddy's
// own files by default, or whatever storage plugin is configured.
//
// # Keys
//
// Everything lies under mercadopago/ in Caddy's storage, as JSON except for the
// key. Names (of applications, sellers, clients, connections) become n- and the
// name in base32, or h- and its SHA-256 where it is longer than 50 bytes; the
// name itself is inside the record.
//
//	encryption_key                         the generated key, where none is configured
//	connections/<application>/<seller>     the seller's connection
//	ended/<connection>                     that connection was disconnected
//	consumed/<hash of the state>           a state that was used up
//	accounts/<client>/<user id>-<live|test>/
//	    pair-<authorization>-<generation>-<hash>   a pair; its tokens are sealed
//	    verdict-<pair hash>                        that pair is dead, and why
//	    intent-<pair hash>-<hash>                  an instance posts that pair
//	    mark-<connection>                          a disconnect is deciding
//	    connection-<connection>                    who may point here: application and seller
//	    tombstone-<authorization>, tombstone       disconnected up to there
//	    moved                                      another store is in charge of the account
//	    index                                      the keys of this folder, the newest last
//
// A back-up is a copy of all of it, with the encryption key. Of a single folder
// that is put back, only the index may be left out. Nothing here is deleted by
// hand while a program that uses it runs.
//
// # What is asked of the storage
//
// Little, because storage plugins differ: that a key which was stored loads, and
// that storing replaces a value whole or not at all.
//
// Locks may do nothing, may be stolen from a slow holder, or may fail instead of
// waiting. No record is ever changed that two writers could mean differently:
// pairs, intents, verdicts and tombstones have keys of their own, and a seller's
// connection is voided by its tombstone, not deleted, so that a disconnect never
// takes away a connection made meanwhile. Only [Store.Consume] needs the lock:
// with one that does nothing, two instances asked at the same moment may both be
// told that the state is theirs.
//
// Listings may lag behind: what an account holds is what the storage lists
// together with what the index names, each then loaded. Either may be wrong. A
// key is lost from sight, until the listing has caught up, only if the lock does
// nothing and the listing lags and two instances write to one account at once.
//
// # Durability
//
// Caddy's files are written beside their place, flushed to the disk and renamed,
// so that a crash leaves the old or the new record, and a record that was
// reported as written outlives the death of the process. The folder is not
// flushed. What a power cut may take are therefore renames of the last moments,
// where the file system does not order them before later flushes; those with one
// ordered journal (ext4, XFS) do, and every new pair is followed by the flush of
// its account's index.
package caddystorage
