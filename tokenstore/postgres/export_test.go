package postgres

// Shut closes the connections now, so that no test leaves one behind.
func (d *Database) Shut() { d.shut() }
