-- Where another store is in charge of an account: which, and what it was given.
alter table {{.schema}}."{{.prefix}}accounts" add column moved json;
