package tokensource

import "encoding/binary"

const (
	// slabUnit is what a text in a slab takes a multiple of, with its length.
	slabUnit  = 16
	slabUnits = 4096
	// slabChunks is how many there may be: each unit has a number of 32 bits.
	slabChunks = 1 << 32 / slabUnits
	slabHead   = 2
)

// slab keeps very many short texts in few pieces of memory that have no pointers:
// whatever is in it costs a collection of garbage nothing. What is dropped is
// overwritten, and makes room for texts of its size.
type slab struct {
	// chunks are pointers because they contain tokens: of a struct's fields fmt prints
	// arrays with their contents, and pointers as addresses.
	chunks []*[slabUnits * slabUnit]byte
	// used are the units of the last chunk that were in use.
	used int
	// free are places, by how many units they have.
	free map[int][]place
	// texts counts them.
	texts int
}

// place is where a text is in a slab; 0 is nowhere.
type place uint32

func (p place) in(s *slab) []byte { return s.chunks[p/slabUnits][p%slabUnits*slabUnit:] }

// put copies a text into the slab; false where it is too long, or the slab is full.
func (s *slab) put(text []byte) (place, bool) {
	units := unitsOf(len(text))
	if units > slabUnits-1 {
		return 0, false
	}
	p, ok := s.room(units)
	if ok {
		room := p.in(s)
		binary.LittleEndian.PutUint16(room, uint16(len(text)))
		copy(room[slabHead:], text)
		s.texts++
	}
	return p, ok
}

// room finds so many units: where as many were in use, behind all others, or in a part
// of a larger room.
func (s *slab) room(units int) (place, bool) {
	if len(s.free[units]) > 0 {
		return s.take(units), true
	}
	if len(s.chunks) == 0 || s.used+units > slabUnits {
		if larger := s.larger(units); larger > 0 {
			p := s.take(larger)
			s.give(p+place(units), larger-units)
			return p, true
		}
		if !s.grow() {
			return 0, false
		}
	}
	p := s.next()
	s.used += units
	return p, true
}

// larger is the least of more units that are free in one place, or 0.
func (s *slab) larger(units int) (least int) {
	for n, places := range s.free {
		if n > units && len(places) > 0 && (least == 0 || n < least) {
			least = n
		}
	}
	return least
}

// grow adds a chunk; false where there are as many as there may be.
func (s *slab) grow() bool {
	if len(s.chunks) == slabChunks {
		return false
	}
	if rest := slabUnits - s.used; len(s.chunks) > 0 && rest > 0 {
		s.give(s.next(), rest)
	}
	s.used = 0
	if len(s.chunks) == 0 {
		s.used = 1 // nothing is at 0
	}
	s.chunks = append(s.chunks, new([slabUnits * slabUnit]byte))
	return true
}

func (s *slab) take(units int) place {
	places := s.free[units]
	last := len(places) - 1
	s.free[units] = places[:last]
	return places[last]
}

func (s *slab) next() place { return place((len(s.chunks)-1)*slabUnits + s.used) }

// at is the text at a place. It can be changed there, and is good until it is
// dropped.
func (s *slab) at(p place) []byte {
	room := p.in(s)
	return room[slabHead:][:binary.LittleEndian.Uint16(room)]
}

// drop overwrites a text.
func (s *slab) drop(p place) {
	units := unitsOf(len(s.at(p)))
	clear(p.in(s)[:units*slabUnit])
	if s.texts--; s.texts == 0 {
		*s = slab{}
		return
	}
	s.give(p, units)
}

func (s *slab) give(p place, units int) {
	if s.free == nil {
		s.free = make(map[int][]place)
	}
	s.free[units] = append(s.free[units], p)
}

func unitsOf(length int) int { return (slabHead + length + slabUnit - 1) / slabUnit }
