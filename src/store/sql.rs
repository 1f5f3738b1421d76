//! Every SQL text. Each starts with its function's name, so that pg_stat_statements and the log of slow
//! statements tell who asked.
//!
//! How a transition reads, in all of them:
//!
//! - `prev` is the row, locked until the statement's transaction ends;
//! - `at` is the clock, read once, after that lock is held (the aggregate forces `prev` to be done first);
//! - the change is decided by what `prev` saw, which is the row as it is, and `noted` writes it into the
//!   history;
//! - the change finds its row by the primary key alone: the other columns of `l` are first compared as they
//!   were when the statement began, so a condition on them would miss a row that changed while it waited;
//! - a change sets every column that the row's CHECK compares, and takes their values from `prev`: PostgreSQL checks
//!   a tuple that it made of the statement's own snapshot first, and one column of an older row beside one of a newer
//!   breaks the CHECK;
//! - the result has the row before and the row after, so that a refusal can say who stands in the way.

/// Applied migrations.
pub const MIGRATIONS_DONE: &str =
    "/* migrations_done */ select count(*) as done, pg_is_in_recovery() or current_setting('transaction_read_only') = 'on' as read_only
from _sqlx_migrations where success";

/// The installation's name and key, whichever replica asks.
pub const INSTALLATION: &str = "/* installation */ select name, bus_key from installation";

/// What every connection starts with. No statement takes longer: a lock timeout alone would not do, since it counts
/// each of the two waits of a queue for one row anew; it is there to tell such a wait from a slow server. And a
/// success is on disk, whatever the server's own setting is.
pub const SESSION: &str = "/* session */ set statement_timeout = '2200ms'; set lock_timeout = '2000ms';
select set_config('synchronous_commit', 'on', false) where current_setting('synchronous_commit') = 'off'";

/// The same behind a pooler, where only a transaction holds together what belongs together.
pub const BEGIN: &str = "/* begin */ begin; set local statement_timeout = '2200ms'; set local lock_timeout = '2000ms';
select set_config('synchronous_commit', 'on', true) where current_setting('synchronous_commit') = 'off'";

/// The end of such a transaction.
pub const COMMIT: &str = "/* commit */ commit";

/// The row as it is, without a lock: a look, not a decision.
pub const STATUS: &str = "/* status */
with seen as (
    select * from appointment_lock where tenant_id = $1 and appointment_id = $2
)
select clock_timestamp() as now, s.version, s.reason, s.user_id, s.user_info, s.session_id,
    s.granted_at, s.expires_at, s.fencing_token
from (select 1) as one left join seen s on true";

/// The same for many appointments, in the order asked: `$1` tenants, `$2` ids.
pub const STATUSES: &str = "/* statuses */
select asked.tenant_id, asked.appointment_id, clock_timestamp() as now, l.version, l.reason, l.user_id, l.user_info,
    l.session_id, l.granted_at, l.expires_at, l.fencing_token
from unnest($1::text[], $2::text[]) with ordinality as asked (tenant_id, appointment_id, place)
left join appointment_lock l on l.tenant_id = asked.tenant_id and l.appointment_id = asked.appointment_id
order by asked.place";

/// Acquire or renew: `$3` user, `$4` user_info, `$5` session or NULL, `$6` seconds to live, `$7` transfer.
///
/// `blocked` is a plain read: where it sees the lock held by somebody else, the answer is no as of that
/// moment, and nothing is locked or written. So a crowd that asks in vain costs the holder nothing.
/// Where the row appeared between `prev` and the insert, nothing comes back: ask again.
pub const ACQUIRE: &str = "/* acquire */
with blocked as materialized (
    select l.*, clock_timestamp() as now from appointment_lock l
    where tenant_id = $1 and appointment_id = $2 and user_id <> $3 and expires_at > clock_timestamp()
), prev as materialized (
    select l.* from appointment_lock l
    where tenant_id = $1 and appointment_id = $2 and not exists (select from blocked)
    for update
), at as materialized (
    select clock_timestamp() as now from (select count(*) from prev) as locked
), verdict as materialized (
    select p.*, at.now,
        p.user_id is not null and p.expires_at <= at.now as ran_out,
        case
            when p.user_id is null or p.expires_at <= at.now then 'acquired'
            when p.user_id <> $3 then null
            when $5::text is null or p.session_id is null or p.session_id = $5 then 'renewed'
            when $7 then 'transferred'
        end as step
    from prev p, at
), won as (
    insert into appointment_lock as l (tenant_id, appointment_id, version, fencing_token, reason,
        user_id, user_info, session_id, granted_at, expires_at)
    select $1, $2, 1, 1, 'acquired', $3, $4, $5, at.now, at.now + make_interval(secs => $6)
    from at where not exists (select from blocked)
    on conflict (tenant_id, appointment_id) do update set
        (version, fencing_token, reason, user_id, user_info, session_id, granted_at, expires_at) = (
            select v.version + case when v.ran_out then 2 else 1 end,
                v.fencing_token + case when v.step = 'renewed' then 0 else 1 end,
                v.step, $3,
                case when v.step = 'renewed' and v.user_info ? 'position'
                    then $4::jsonb || jsonb_build_object('position', v.user_info -> 'position') else $4::jsonb end,
                case when v.step = 'renewed' then coalesce(v.session_id, $5) else $5 end,
                case when v.step = 'renewed' then v.granted_at else v.now end,
                v.now + make_interval(secs => $6)
            from verdict v
        )
    where exists (select from verdict v where v.step is not null)
    returning l.*
), noted as (
    insert into lock_history (tenant_id, appointment_id, version, reason, user_id, user_info, fencing_token, at)
    select v.tenant_id, v.appointment_id, v.version + 1, 'expired', v.user_id, v.user_info, v.fencing_token, v.expires_at
    from verdict v, won where v.ran_out
    union all
    select w.tenant_id, w.appointment_id, w.version, w.reason, w.user_id, w.user_info, w.fencing_token, w.granted_at
    from won w where w.reason <> 'renewed'
)
select true as changed, at.now, coalesce((select v.ran_out from verdict v), false) as ran_out, w.version, w.reason,
    w.user_id, w.user_info, w.session_id, w.granted_at, w.expires_at, w.fencing_token
from won w, at
union all
select false, v.now, false, v.version, v.reason, v.user_id, v.user_info, v.session_id, v.granted_at, v.expires_at,
    v.fencing_token
from verdict v where v.step is null
union all
select false, b.now, false, b.version, b.reason, b.user_id, b.user_info, b.session_id, b.granted_at, b.expires_at,
    b.fencing_token
from blocked b";

/// As in [`ACQUIRE`], whoever sees the lock held by somebody else is refused by a plain read, and waits for
/// nobody's saving transaction.
///
/// The holder's activity: `$3` user, `$4` position or NULL, `$5` seconds to live, `$6` seconds since the activity.
pub const RENEW: &str = "/* renew */
with blocked as materialized (
    select l.*, clock_timestamp() as now from appointment_lock l
    where tenant_id = $1 and appointment_id = $2 and user_id <> $3 and expires_at > clock_timestamp()
), prev as materialized (
    select * from appointment_lock
    where tenant_id = $1 and appointment_id = $2 and not exists (select from blocked)
    for update
), at as materialized (
    select clock_timestamp() as now from (select count(*) from prev) as locked
), done as (
    update appointment_lock l set
        version = p.version + 1,
        reason = 'renewed',
        user_id = p.user_id,
        user_info = case when $4::jsonb is null then p.user_info
            else p.user_info || jsonb_build_object('position', $4::jsonb) end,
        session_id = p.session_id,
        granted_at = p.granted_at,
        expires_at = greatest(p.expires_at, at.now - make_interval(secs => $6) + make_interval(secs => $5))
    from prev p, at
    where l.tenant_id = p.tenant_id and l.appointment_id = p.appointment_id
        and p.user_id = $3 and p.expires_at > at.now
    returning l.*
)
select d.version is not null as changed, at.now, false as ran_out,
    coalesce(d.version, p.version) as version, coalesce(d.reason, p.reason) as reason,
    p.user_id, coalesce(d.user_info, p.user_info) as user_info, p.session_id, p.granted_at,
    coalesce(d.expires_at, p.expires_at) as expires_at, p.fencing_token
from at left join prev p on true left join done d on true
where not exists (select from blocked)
union all
select false, b.now, false, b.version, b.reason, b.user_id, b.user_info, b.session_id, b.granted_at, b.expires_at,
    b.fencing_token
from blocked b";

/// The holder gives it up, others are refused as in [`RENEW`]: `$3` user, `$4` session or NULL, `$5` token or NULL.
pub const RELEASE: &str = "/* release */
with blocked as materialized (
    select l.*, clock_timestamp() as now from appointment_lock l
    where tenant_id = $1 and appointment_id = $2 and user_id <> $3 and expires_at > clock_timestamp()
), prev as materialized (
    select * from appointment_lock
    where tenant_id = $1 and appointment_id = $2 and not exists (select from blocked)
    for update
), at as materialized (
    select clock_timestamp() as now from (select count(*) from prev) as locked
), done as (
    update appointment_lock l set version = l.version + 1, reason = 'released',
        user_id = null, user_info = null, session_id = null, granted_at = null, expires_at = null
    from prev p, at
    where l.tenant_id = p.tenant_id and l.appointment_id = p.appointment_id
        and p.user_id = $3 and p.expires_at > at.now
        and ($4::text is null or p.session_id is null or p.session_id = $4)
        and ($5::bigint is null or p.fencing_token = $5)
    returning l.version
), noted as (
    insert into lock_history (tenant_id, appointment_id, version, reason, user_id, user_info, fencing_token, at)
    select p.tenant_id, p.appointment_id, d.version, 'released', p.user_id, p.user_info, p.fencing_token, at.now
    from done d, prev p, at
)
select d.version is not null as changed, at.now, false as ran_out,
    coalesce(d.version, p.version) as version, p.reason, p.user_id, p.user_info, p.session_id, p.granted_at,
    p.expires_at, p.fencing_token
from at left join prev p on true left join done d on true
where not exists (select from blocked)
union all
select false, b.now, false, b.version, b.reason, b.user_id, b.user_info, b.session_id, b.granted_at, b.expires_at,
    b.fencing_token
from blocked b";

/// An admin ends it: `$3` token or NULL, `$4` admin, `$5` admin_info or NULL, `$6` why or NULL.
pub const FORCE_RELEASE: &str = "/* force_release */
with prev as materialized (
    select * from appointment_lock where tenant_id = $1 and appointment_id = $2 for update
), at as materialized (
    select clock_timestamp() as now from (select count(*) from prev) as locked
), done as (
    update appointment_lock l set version = l.version + 1, reason = 'forced',
        user_id = null, user_info = null, session_id = null, granted_at = null, expires_at = null
    from prev p, at
    where l.tenant_id = p.tenant_id and l.appointment_id = p.appointment_id
        and p.expires_at > at.now and ($3::bigint is null or p.fencing_token = $3)
    returning l.version
), noted as (
    insert into lock_history (tenant_id, appointment_id, version, reason, user_id, user_info, fencing_token,
        actor_id, actor_info, actor_reason, at)
    select p.tenant_id, p.appointment_id, d.version, 'forced', p.user_id, p.user_info, p.fencing_token,
        $4, $5, $6, at.now
    from done d, prev p, at
)
select d.version is not null as changed, at.now, false as ran_out,
    coalesce(d.version, p.version) as version, p.reason, p.user_id, p.user_info, p.session_id, p.granted_at,
    p.expires_at, p.fencing_token
from at left join prev p on true left join done d on true";

/// An admin takes it: `$3` token or NULL, `$4` admin, `$5` admin_info or NULL, `$6` why or NULL,
/// `$7` the admin as holder, `$8` seconds to live. A free lock is taken too, unless a token was named.
/// Where the row appeared between `prev` and the insert, nothing comes back: ask again.
pub const TAKE_OVER: &str = "/* take_over */
with prev as materialized (
    select * from appointment_lock where tenant_id = $1 and appointment_id = $2 for update
), at as materialized (
    select clock_timestamp() as now from (select count(*) from prev) as locked
), verdict as materialized (
    select at.now, p.version, p.fencing_token, coalesce(p.user_id is not null and p.expires_at <= at.now, false) as ran_out,
        $3::bigint is null or coalesce(p.fencing_token = $3 and p.expires_at > at.now, false) as may
    from at left join prev p on true
), won as (
    insert into appointment_lock as l (tenant_id, appointment_id, version, fencing_token, reason,
        user_id, user_info, session_id, granted_at, expires_at)
    select $1, $2, 1, 1, 'taken-over', $4, $7, null, v.now, v.now + make_interval(secs => $8)
    from verdict v where v.may
    on conflict (tenant_id, appointment_id) do update set
        (version, fencing_token, reason, user_id, user_info, session_id, granted_at, expires_at) = (
            select v.version + case when v.ran_out then 2 else 1 end, v.fencing_token + 1, 'taken-over',
                $4, $7::jsonb, null, v.now, v.now + make_interval(secs => $8)
            from verdict v
        )
    where exists (select from prev)
    returning l.*
), noted as (
    insert into lock_history (tenant_id, appointment_id, version, reason, user_id, user_info, fencing_token,
        actor_id, actor_info, actor_reason, at)
    select p.tenant_id, p.appointment_id, p.version + 1, 'expired', p.user_id, p.user_info, p.fencing_token,
        null, null, null, p.expires_at
    from prev p, verdict v, won where v.ran_out
    union all
    select w.tenant_id, w.appointment_id, w.version, w.reason, w.user_id, w.user_info, w.fencing_token,
        $4, $5, $6, w.granted_at
    from won w
)
select true as changed, v.now, v.ran_out, w.version, w.reason, w.user_id, w.user_info, w.session_id, w.granted_at,
    w.expires_at, w.fencing_token
from won w, verdict v
union all
select false, v.now, false, p.version, p.reason, p.user_id, p.user_info, p.session_id, p.granted_at, p.expires_at,
    p.fencing_token
from verdict v left join prev p on true where not v.may";

/// Ends leases that have run out: `$1` leader, `$2` term, `$3` how many. A leader of a past term ends none.
pub const SWEEP: &str = "/* sweep */
with due as materialized (
    select l.* from appointment_lock l
    where l.user_id is not null and l.expires_at <= clock_timestamp()
        and exists (select from leader_lease
            where name = 'sweeper' and holder = $1 and term = $2 and expires_at > clock_timestamp())
    order by l.expires_at limit $3
    for update skip locked
), done as (
    update appointment_lock l set version = l.version + 1, reason = 'expired',
        user_id = null, user_info = null, session_id = null, granted_at = null, expires_at = null
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
from done";

/// Seconds until the next lease runs out; NULL where none is held.
pub const NEXT_EXPIRY: &str = "/* next_expiry */
select extract(epoch from min(expires_at) - clock_timestamp())::float8 from appointment_lock where user_id is not null";

/// How many leases are in force.
pub const COUNT_LEASES: &str = "/* count_leases */
select count(*) from appointment_lock where user_id is not null and expires_at > clock_timestamp()";

/// Stands for the duty, or keeps it: `$1` who, `$2` seconds. One row: elected, with its term.
/// A candidate who sees somebody else in office writes nothing.
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

/// Gives the duty up: `$1` who, `$2` term.
pub const RESIGN: &str = "/* resign */
update leader_lease set expires_at = clock_timestamp() where name = 'sweeper' and holder = $1 and term = $2";

/// States of another version than those last seen: `$1` tenants, `$2` appointments, `$3` versions, side by side.
/// Another, not only a newer one: what was seen may be ahead of a database that was restored, or has no row any more.
pub const DIFFERING: &str = "/* differing */
select seen.tenant_id, seen.appointment_id, clock_timestamp() as now, l.version, l.reason, l.user_id, l.user_info,
    l.session_id, l.granted_at, l.expires_at, l.fencing_token
from unnest($1::text[], $2::text[], $3::bigint[]) as seen (tenant_id, appointment_id, version)
left join appointment_lock l on l.tenant_id = seen.tenant_id and l.appointment_id = seen.appointment_id
where coalesce(l.version, 0) <> seen.version";

/// Says that others may not have been told of changes: `$1` which replica.
pub const NOTE_UNPUBLISHED: &str = "/* note_unpublished */
with forgotten as (
    delete from unpublished where replica <> $1 and at < clock_timestamp() - interval '1 hour'
)
insert into unpublished (replica, at) values ($1, clock_timestamp())
on conflict (replica) do update set at = excluded.at";

/// What others have said so: `$1` which replica asks. One text that differs whenever any of them says it again.
/// A newest time would not do: who says it first need not commit first.
pub const UNPUBLISHED: &str = "/* unpublished */
select coalesce(string_agg(replica || '@' || at, ' ' order by replica), '') as notes, clock_timestamp() as now
from unpublished where replica <> $1";

/// An appointment's history: `$3` before which version or NULL, `$4` how many.
pub const HISTORY: &str = "/* history */
select version, reason, user_id, user_info, fencing_token, at, actor_id, actor_info, actor_reason
from lock_history
where tenant_id = $1 and appointment_id = $2 and ($3::bigint is null or version < $3)
order by version desc limit $4";

/// A tenant's leases in force: `$2` after which appointment or NULL, `$3` how many.
pub const LEASES: &str = "/* leases */
select tenant_id, appointment_id, clock_timestamp() as now, version, reason, user_id, user_info, session_id,
    granted_at, expires_at, fencing_token
from appointment_lock
where tenant_id = $1 and user_id is not null and expires_at > clock_timestamp()
    and ($2::text is null or appointment_id > $2)
order by appointment_id limit $3";

/// How many leases a user has in force, counted up to `$3`: `$1` tenant, `$2` user. It looks at every lease in force,
/// so it is asked seldom.
pub const LEASES_OF: &str = "/* leases_of */
select count(*) from (
    select from appointment_lock
    where tenant_id = $1 and user_id = $2 and expires_at > clock_timestamp() limit $3
) as leases";

/// Forgets old history: `$1` leader, `$2` term, `$3` seconds, `$4` how many. One row: how many there were.
pub const FORGET: &str = "/* forget */
with old as materialized (
    select h.tenant_id, h.appointment_id, h.version from lock_history h
    where h.at < clock_timestamp() - make_interval(secs => $3)
        and exists (select from leader_lease
            where name = 'sweeper' and holder = $1 and term = $2 and expires_at > clock_timestamp())
    order by h.at limit $4
    for update skip locked
), gone as (
    delete from lock_history h using old o
    where h.tenant_id = o.tenant_id and h.appointment_id = o.appointment_id and h.version = o.version
    returning 1
)
select count(*) from gone";
