// Package postgres is a [tokenstore.Store] on PostgreSQL, for fleets: many
// instances on one database.
//
// # Tables
//
// Everything lies in a schema of its own, which the first instance makes; the
// migrations folder has the tables and what each is for. Migrations are only ever
// added, and only ever add: an instance of an older version goes on working beside
// a newer one. The names of people and things are in clear, tokens are sealed
// before they leave the process, and so is nothing else worth reading.
//
// # Consistency
//
// Each operation is one transaction, sent in one piece: it takes one journey to
// the server, and there is no moment in between at which a crash could leave half
// of it. An account is read by one statement, which sees one moment. Every
// operation but Consume may be repeated, and is, once, when its connection broke.
//
// # Connections
//
// A process opens Config.MaxConnections at the most, and none before the first
// use. Two of them are sessions: one holds the locks of accounts, so that they end
// with the process, however it ends; one listens to what other instances change.
// Sessions are what a proxy that pools by the transaction does not give, so that
// Database.Store refuses to work through one.
package postgres
