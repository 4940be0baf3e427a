package connect

import (
	"encoding/base64"
	"encoding/binary"
	"errors"
)

// errMalformed says that a sealed value opened and does not hold what it should:
// it was sealed by another version.
var errMalformed = errors.New("sealed by another version")

// The cookies' alphabet. Strict, so that one value has one spelling.
var base64url = base64.RawURLEncoding.Strict()

// packer writes the plain text of cookies and links: numbers as varints, strings
// with their length in front. Cookies travel with every request, and Caddy takes
// 16 KiB of headers in all, so JSON would be a waste.
type packer []byte

func (p *packer) number(v uint64) { *p = binary.AppendUvarint(*p, v) }

func (p *packer) text(s string) {
	p.number(uint64(len(s)))
	*p = append(*p, s...)
}

// unpacker reads what a packer wrote. After the first fault it reads zeros, and
// done tells of it.
type unpacker struct {
	rest   string
	faulty bool
}

func (u *unpacker) number() uint64 {
	var v uint64
	for i := 0; i < len(u.rest) && i < binary.MaxVarintLen64; i++ {
		b := u.rest[i]
		v |= uint64(b&0x7f) << (7 * i)
		if b < 0x80 {
			u.rest = u.rest[i+1:]
			return v
		}
	}
	u.fail()
	return 0
}

func (u *unpacker) text() string {
	n := u.number()
	if n > uint64(len(u.rest)) {
		u.fail()
		return ""
	}
	s := u.rest[:n]
	u.rest = u.rest[n:]
	return s
}

func (u *unpacker) fail() { u.rest, u.faulty = "", true }

// done reports whether everything was read, and nothing is left.
func (u *unpacker) done() error {
	if u.faulty || u.rest != "" {
		return errMalformed
	}
	return nil
}
