package caddystorage

import (
	"context"
	"errors"
	"slices"

	"github.com/caddy-mercadopago/caddy-mercadopago/tokenstore"
)

// longestIndex bounds an index. The oldest keys leave it first: a listing has
// had the most time to show them.
const longestIndex = 512

// names returns the names in an account's folder: what the storage lists,
// together with what the index names. Some of them may be gone.
func (s *Store) names(ctx context.Context, folder string) ([]string, error) {
	listed, err := s.list(ctx, folder)
	if err != nil {
		return nil, err
	}
	// After the listing: what vanished between the two was replaced before, and
	// the index then names what replaced it.
	indexed, _, err := s.index(ctx, folder)
	if err != nil {
		return nil, err
	}
	all := append(listed, indexed...)
	slices.Sort(all)
	return slices.Compact(all), nil
}

// walk visits the names in an account's folder. While a visit finds one gone
// that was named, it looks again and visits what is new: what is replaced is
// deleted after its successor was written. Where nothing new is named, nothing
// came in its place.
func (s *Store) walk(ctx context.Context, folder string, visit func(names []string) (gone bool, err error)) error {
	seen := make(map[string]bool)
	for again := true; again; {
		names, err := s.names(ctx, folder)
		if err != nil {
			return err
		}
		names = slices.DeleteFunc(names, func(name string) bool { return seen[name] })
		for _, name := range names {
			seen[name] = true
		}
		if again, err = visit(names); err != nil {
			return err
		}
	}
	return nil
}

// index returns the names in a folder's index, the newest last, and whether
// there is one that can be read. It is a hint: one that is damaged is as good as
// none, and the next write makes it anew.
func (s *Store) index(ctx context.Context, folder string) (names []string, ok bool, err error) {
	raw, err := s.load(ctx, folder+indexName)
	if errors.Is(err, tokenstore.ErrNotFound) {
		return nil, false, nil
	}
	if errors.Is(err, errTooLong) {
		return nil, false, nil
	}
	if err != nil {
		return nil, false, err
	}
	if err := parse(raw, folder+indexName, &names); err != nil {
		return nil, false, nil //nolint:nilerr // a damaged hint is no failure
	}
	// The names become parts of keys: a damaged index must name nothing but records.
	names = slices.DeleteFunc(names, func(name string) bool { return !recordName.MatchString(name) })
	return names, true, nil
}

// add writes a record into an account's folder, in place of one by that name.
func (s *Store) add(ctx context.Context, folder, name string, value any) error {
	return s.change(ctx, folder, func() error { return s.put(ctx, folder+name, value) }, []string{name}, nil)
}

// drop deletes records of an account's folder.
func (s *Store) drop(ctx context.Context, folder string, names ...string) error {
	return s.change(ctx, folder, func() error {
		for _, name := range names {
			if err := s.remove(ctx, folder+name); err != nil {
				return err
			}
		}
		return nil
	}, nil, names)
}

// change changes records, then the index, in this order: a crash between the two
// leaves a record that the listing shows, or a name without a record.
//
// Goroutines of this process take turns. Other instances are kept away by the
// account's lock, where it works.
func (s *Store) change(ctx context.Context, folder string, records func() error, added, dropped []string) error {
	leave, err := s.indexes.Enter(ctx, folder)
	if err != nil {
		return err
	}
	defer leave()
	if err := records(); err != nil {
		return err
	}
	names, ok, err := s.index(ctx, folder)
	if err != nil {
		return err
	}
	if !ok {
		if names, err = s.list(ctx, folder); err != nil {
			return err
		}
	}
	before := len(names)
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(dropped, name) })
	if ok && len(names) == before && containsAll(names, added) {
		return nil
	}
	names = slices.DeleteFunc(names, func(name string) bool { return slices.Contains(added, name) })
	names = append(names, added...)
	names = names[max(0, len(names)-longestIndex):]
	return s.put(ctx, folder+indexName, names)
}

func containsAll(names, wanted []string) bool {
	for _, name := range wanted {
		if !slices.Contains(names, name) {
			return false
		}
	}
	return true
}
