package caddystorage

import (
	"crypto/sha256"
	"encoding/base32"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"regexp"
	"strconv"
	"strings"
	"unicode/utf8"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

const (
	root          = "mercadopago/"
	encryptionKey = root + "encryption_key"
	indexName     = "index"
	tombstoneName = "tombstone"
	movedName     = "moved"

	// longestName is what is encoded rather than hashed. Its 80 letters leave
	// room under the 143 bytes that the strictest file systems give a name.
	longestName = 50
)

// Lower case only: some file systems and storages do not tell A from a.
var base32Lower = base32.NewEncoding("abcdefghijklmnopqrstuvwxyz234567").WithPadding(base32.NoPadding)

// part turns any name into one part of a key, one to one. It has no slash and no
// dot, is never empty, and means the same to storages that fold case.
func part(name string) string {
	if len(name) > longestName {
		sum := sha256.Sum256([]byte(name))
		return "h-" + hex.EncodeToString(sum[:])
	}
	return "n-" + base32Lower.EncodeToString([]byte(name))
}

// recordName is the exact shape of the names in an account's folder. Listings
// also show what is not ours: folders, and files that a crash left half written.
var recordName = regexp.MustCompile(`^(pair-[0-9]{1,20}-[0-9]{1,20}-[0-9a-f]{32}` +
	`|verdict-[0-9a-f]{32}` +
	`|intent-[0-9a-f]{32}-[0-9a-f]{32}` +
	`|(mark|connection)-(n-[a-z2-7]{1,80}|h-[0-9a-f]{64})` +
	`|tombstone-[0-9]{1,20}` +
	`|moved)$`)

var pairHash = regexp.MustCompile(`^[0-9a-f]{32}$`)

func connectionKey(application, seller string) (string, error) {
	if err := checkName("seller", seller); err != nil {
		return "", err
	}
	// The default application has the empty name.
	if !utf8.ValidString(application) {
		return "", errors.New("the application's name is not valid UTF-8")
	}
	return root + "connections/" + part(application) + "/" + part(seller), nil
}

func endedKey(connection string) string { return root + "ended/" + part(connection) }

func consumedKey(state string) string {
	sum := sha256.Sum256([]byte(state))
	return root + "consumed/" + hex.EncodeToString(sum[:])
}

// accountFolder returns the folder of an account's records, with a slash at its
// end: alone it is no key, so that no mistake can delete it whole.
func accountFolder(id tokenstore.AccountID) (string, error) {
	if err := checkName("client id", id.ClientID); err != nil {
		return "", err
	}
	if id.UserID <= 0 {
		return "", fmt.Errorf("the account's user id is %d: it must be above 0", id.UserID)
	}
	mode := "test"
	if id.Live {
		mode = "live"
	}
	return root + "accounts/" + part(id.ClientID) + "/" + strconv.FormatInt(id.UserID, 10) + "-" + mode + "/", nil
}

func pairName(id tokenstore.PairID) (string, error) {
	if !pairHash.MatchString(id.Hash) {
		return "", errNoHash
	}
	return fmt.Sprintf("pair-%d-%d-%s", id.Authorization, id.Generation, id.Hash), nil
}

func verdictName(pair string) (string, error) {
	if !pairHash.MatchString(pair) {
		return "", errNoHash
	}
	return "verdict-" + pair, nil
}

func intentName(intent tokenstore.Intent) (string, error) {
	if !pairHash.MatchString(intent.Pair) {
		return "", errNoHash
	}
	return "intent-" + intent.Pair + "-" + digest(intent.Instance, intent.Nonce), nil
}

func markName(mark tokenstore.Mark) (string, error) {
	if err := checkName("connection id", mark.Connection); err != nil {
		return "", err
	}
	return "mark-" + part(mark.Connection), nil
}

var errNoHash = errors.New("the pair's hash is not 32 hexadecimal digits, as HashPair makes them")

// checkName refuses what names nobody, and what JSON would change on its way
// into a record.
func checkName(what, name string) error {
	if name == "" {
		return fmt.Errorf("the %s is empty", what)
	}
	if !utf8.ValidString(name) {
		return fmt.Errorf("the %s is not valid UTF-8", what)
	}
	return nil
}

// kind is what stands before a record name's first hyphen.
func kind(name string) string {
	k, _, _ := strings.Cut(name, "-")
	return k
}

// lockName names a lock with letters and digits only. Caddy's files drop the
// slashes of a lock's name, fold its case and more: mp/1 and mp1 would be one
// lock there.
func lockName(parts ...string) string { return "mercadopago" + digest(parts...) }

// digest is a short hash of several parts, each with its length in front: no two
// lists of parts give the same bytes.
func digest(parts ...string) string {
	var text []byte
	for _, p := range parts {
		text = binary.AppendUvarint(text, uint64(len(p)))
		text = append(text, p...)
	}
	sum := sha256.Sum256(text)
	return hex.EncodeToString(sum[:16])
}
