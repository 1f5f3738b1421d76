-- A replica that cannot publish has committed changes of which the others were not told. It says so here,
-- where they look twice a second: PostgreSQL is what all of them can reach whenever there are changes at all.

create table unannounced (
    replica  text         primary key,
    at       timestamptz  not null
);

comment on table unannounced is 'Replicas whose changes may not have reached the others over the bus. Whoever sees a row change compares all its rooms.';
comment on column unannounced.replica is 'The replica, by the name it has since its start.';
comment on column unannounced.at is 'When it last committed changes that it may not have told, by this server''s clock.';
