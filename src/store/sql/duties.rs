//! Duties: the leader's, and those between replicas.

/// Number of applied migrations, and whether the database is read-only.
pub const MIGRATIONS_DONE: &str = "/* migrations_done */ select count(*) as done, pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' as read_only
from _sqlx_migrations where success";

/// The installation's name and key, the same for all replicas.
pub const INSTALLATION: &str = "/* installation */ select name, bus_key from installation";

/// Election of the leader, or renewal of its term: `$1` candidate, `$2` seconds. One row if elected, with the term.
/// A candidate that sees another one in office writes nothing.
pub const CAMPAIGN: &str = "/* campaign */
insert into leader_lease as l (name, holder, term, expires_at)
select 'sweeper', $1, 1, clock_timestamp() + make_interval(secs => $2)
where not exists (select from leader_lease
    where name = 'sweeper' and holder <> $1 and expires_at > clock_timestamp())
on conflict (name) do update set
    holder = $1,
    term = case when l.holder = $1 and l.expires_at > clock_timestamp() then l.term else l.term + 1 end,
    expires_at = clock_timestamp() + make_interval(secs => $2)
where l.holder = $1 or l.expires_at <= clock_timestamp()
returning term";

/// End of a leader's term: `$1` leader, `$2` term.
pub const RESIGN: &str = "/* resign */
update leader_lease set expires_at = clock_timestamp() where name = 'sweeper' and holder = $1 and term = $2";

/// Ends leases that have expired: `$1` leader, `$2` term, `$3` maximum number. A leader of a past term ends none.
pub const SWEEP: &str = concat!(
    "/* sweep */
with due as materialized (
    select l.* from appointment_lock l
    where l.user_id is not null and l.expires_at <= clock_timestamp()
        and ",
    leads!(),
    "
    order by l.expires_at limit $3
    for update skip locked
), done as (
    ",
    freed!("expired"),
    "
    from due d
    where l.tenant_id = d.tenant_id and l.appointment_id = d.appointment_id
        and d.expires_at <= clock_timestamp()
    returning l.tenant_id, l.appointment_id, l.version, d.user_id, d.user_info, d.fencing_token, d.expires_at
), noted as (
    insert into lock_history (tenant_id, appointment_id, version, reason, user_id, user_info, fencing_token, at)
    select tenant_id, appointment_id, version, 'expired', user_id, user_info, fencing_token, expires_at from done
)
select tenant_id, appointment_id, version, clock_timestamp() as now,
    extract(epoch from clock_timestamp() - expires_at)::float8 as late
from done",
);

/// Deletes old history: `$1` leader, `$2` term, `$3` seconds, `$4` maximum number. One row: the number deleted.
pub const FORGET: &str = concat!(
    "/* forget */
with old as materialized (
    select h.tenant_id, h.appointment_id, h.version from lock_history h
    where h.at < clock_timestamp() - make_interval(secs => $3)
        and ",
    leads!(),
    "
    order by h.at limit $4
    for update skip locked
), gone as (
    delete from lock_history h using old o
    where h.tenant_id = o.tenant_id and h.appointment_id = o.appointment_id and h.version = o.version
    returning 1
)
select count(*) from gone",
);

/// Note that changes may not have reached the other replicas: `$1` replica.
pub const NOTE_UNPUBLISHED: &str = "/* note_unpublished */
with forgotten as (
    delete from unpublished where replica <> $1 and at < clock_timestamp() - interval '1 hour'
)
insert into unpublished (replica, at) values ($1, clock_timestamp())
on conflict (replica) do update set at = excluded.at";

/// Notes of the other replicas: `$1` replica that asks. One text that differs whenever any of them notes it again.
/// A newest time would not do: the first to note it need not commit first.
pub const UNPUBLISHED: &str = "/* unpublished */
select coalesce(string_agg(replica || '@' || at, ' ' order by replica), '') as notes, clock_timestamp() as now
from unpublished where replica <> $1";
