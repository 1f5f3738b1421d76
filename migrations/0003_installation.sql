-- Several installations may share one Redis, whose channels know no databases. Each has a name of its own by chance,
-- which its channels begin with, so that none hears of another's locks.

create table installation (
    only_one  boolean  primary key default true check (only_one),
    name      text     not null check (name ~ '^[0-9a-f]{12}$')
);

comment on table installation is 'This installation: the one row that there may be.';
comment on column installation.only_one is 'Always true, so that there is no second row.';
comment on column installation.name is 'Its name, by chance. The channels on Redis begin with it.';

insert into installation (name) values (left(replace(gen_random_uuid()::text, '-', ''), 12));

-- A back end that calls this has a search path of its own, and finds these tables all the same.
alter function apptlock_assert_lease(text, bigint, text) set search_path from current;
