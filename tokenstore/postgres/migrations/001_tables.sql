-- Names of people's making (sellers, applications, connections) are text of any
-- length and any characters. What a row is found by is therefore a digest of them,
-- 128 bits of SHA-256, in the form of a uuid: short keys, all of one length. The
-- names stand beside it, with a backslash written \\ and a NUL, which PostgreSQL
-- does not take, written \0.

-- An account that ever had a pair. due_at is when it is to be looked at next; null
-- is never. The index makes taking the accounts that are due cost the same however
-- many there are.
create table {{.schema}}."{{.prefix}}accounts" (
	account   uuid        primary key,
	client    uuid        not null,
	client_id text        not null,
	user_id   bigint      not null check (user_id > 0),
	live      boolean     not null,
	tombstone bigint      not null default 0,
	due_at    timestamptz
);
create index "{{.prefix}}accounts_due" on {{.schema}}."{{.prefix}}accounts" (client, due_at) where due_at is not null;

-- Pairs are inserted and deleted, never updated. The key finds the highest one, and
-- keeps two pairs of one number apart by their hash. The tokens in the record are
-- sealed.
create table {{.schema}}."{{.prefix}}pairs" (
	account         uuid        not null,
	"authorization" bigint      not null check ("authorization" > 0),
	generation      bigint      not null check (generation >= 0),
	hash            uuid        not null,
	record          json        not null,
	added_at        timestamptz not null default now(),
	primary key (account, "authorization", generation, hash)
);
create function {{.schema}}."{{.prefix}}pairs_stay"() returns trigger language plpgsql as $$
begin
	raise exception 'a pair is never updated: insert another one';
end $$;
create trigger "{{.prefix}}pairs_stay" before update on {{.schema}}."{{.prefix}}pairs"
	for each row execute function {{.schema}}."{{.prefix}}pairs_stay"();

create table {{.schema}}."{{.prefix}}intents" (
	account  uuid        not null,
	pair     uuid        not null,
	name     uuid        not null,
	instance text        not null,
	nonce    text        not null,
	attempt  integer     not null,
	at       timestamptz not null,
	primary key (account, pair, name)
);

create table {{.schema}}."{{.prefix}}verdicts" (
	account uuid        not null,
	pair    uuid        not null,
	reason  text        not null,
	at      timestamptz not null,
	primary key (account, pair)
);

create table {{.schema}}."{{.prefix}}marks" (
	account         uuid        not null,
	name            uuid        not null,
	connection      text        not null,
	"authorization" bigint      not null,
	at              timestamptz not null,
	primary key (account, name)
);

-- The connection that each seller has.
create table {{.schema}}."{{.prefix}}connections" (
	place           uuid        primary key,
	connection      text        not null,
	application     text        not null,
	seller          text        not null,
	account         uuid        not null,
	client_id       text        not null,
	user_id         bigint      not null,
	live            boolean     not null,
	"authorization" bigint      not null,
	nickname        text        not null,
	country         text        not null,
	created_at      timestamptz not null
);
create index "{{.prefix}}connections_account" on {{.schema}}."{{.prefix}}connections" (account);

-- Connections that were ended, and whose they were.
create table {{.schema}}."{{.prefix}}ended" (
	connection uuid        primary key,
	place      uuid        not null,
	at         timestamptz not null
);

-- States that were used up.
create table {{.schema}}."{{.prefix}}consumed" (
	state    uuid        primary key,
	until_at timestamptz not null
);
create index "{{.prefix}}consumed_until" on {{.schema}}."{{.prefix}}consumed" (until_at);
