//! Reads: nothing is locked, and nothing is decided by them.

/// State of one appointment: `$1` tenant, `$2` appointment.
pub const STATUS: &str = concat!(
    "/* status */
with seen as (
    select * from appointment_lock where tenant_id = $1 and appointment_id = $2
)
select clock_timestamp() as now, ",
    state!("s"),
    "
from (select 1) as one left join seen s on true"
);

/// States of many appointments, in the order asked: `$1` tenants, `$2` appointments.
pub const STATUSES: &str = concat!(
    "/* statuses */
select asked.tenant_id, asked.appointment_id, clock_timestamp() as now, ",
    state!("l"),
    "
from unnest($1::text[], $2::text[]) with ordinality as asked (tenant_id, appointment_id, place)
left join appointment_lock l on l.tenant_id = asked.tenant_id and l.appointment_id = asked.appointment_id
order by asked.place"
);

/// States of another version than those last seen: `$1` tenants, `$2` appointments, `$3` versions, side by side.
/// Another, not only a newer one: what was seen may be ahead of a database that was restored, or has no row any more.
pub const DIFFERING: &str = concat!(
    "/* differing */
select seen.tenant_id, seen.appointment_id, clock_timestamp() as now, ",
    state!("l"),
    "
from unnest($1::text[], $2::text[], $3::bigint[]) as seen (tenant_id, appointment_id, version)
left join appointment_lock l on l.tenant_id = seen.tenant_id and l.appointment_id = seen.appointment_id
where coalesce(l.version, 0) <> seen.version"
);

/// A tenant's leases in force: `$2` after which appointment or NULL, `$3` maximum number.
pub const LEASES: &str = concat!(
    "/* leases */
select l.tenant_id, l.appointment_id, clock_timestamp() as now, ",
    state!("l"),
    "
from appointment_lock l
where tenant_id = $1 and user_id is not null and expires_at > clock_timestamp()
    and ($2::text is null or appointment_id > $2)
order by appointment_id limit $3"
);

/// Number of a user's leases in force, counted up to `$3`: `$1` tenant, `$2` user. It reads every lease in force,
/// so it is used rarely.
pub const LEASES_OF: &str = "/* leases_of */
select count(*) from (
    select from appointment_lock
    where tenant_id = $1 and user_id = $2 and expires_at > clock_timestamp() limit $3
) as leases";

/// Number of leases in force.
pub const COUNT_LEASES: &str = "/* count_leases */
select count(*) from appointment_lock where user_id is not null and expires_at > clock_timestamp()";

/// Seconds until the next lease expires; NULL if none is held.
pub const NEXT_EXPIRY: &str = "/* next_expiry */
select extract(epoch from min(expires_at) - clock_timestamp())::float8 from appointment_lock where user_id is not null";

/// An appointment's history: `$3` before which version or NULL, `$4` maximum number.
pub const HISTORY: &str = "/* history */
select version, reason, user_id, user_info, fencing_token, at, actor_id, actor_info, actor_reason
from lock_history
where tenant_id = $1 and appointment_id = $2 and ($3::bigint is null or version < $3)
order by version desc limit $4";
