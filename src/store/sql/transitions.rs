//! Transitions of a lock: `$1` is the tenant and `$2` the appointment in all of them. Owns who may do what, and what
//! becomes of the row. Above each statement are the values that it gives columns.

#[rustfmt::skip]
macro_rules! first_grant {
    (version) => { "1" };
    (fencing_token) => { "1" };
    (reason) => { "'acquired'" };
    (user_id) => { "$3" };
    (user_info) => { "$4" };
    (session_id) => { "$5" };
    (granted_at) => { "at.now" };
    (expires_at) => { "at.now + make_interval(secs => $6)" };
    ($other:ident) => { "null" };
}

#[rustfmt::skip]
macro_rules! grant_or_renewal {
    (version) => { "v.version + case when v.ran_out then 2 else 1 end" };
    (fencing_token) => { "v.fencing_token + case when v.step = 'renewed' then 0 else 1 end" };
    (reason) => { "v.step" };
    (user_id) => { "$3" };
    (user_info) => {
        "case when v.step = 'renewed' and v.user_info ? 'position'
                    then $4::jsonb || jsonb_build_object('position', v.user_info -> 'position') else $4::jsonb end"
    };
    (session_id) => { "case when v.step = 'renewed' then coalesce(v.session_id, $5) else $5 end" };
    (granted_at) => { "case when v.step = 'renewed' then v.granted_at else v.now end" };
    (expires_at) => { "v.now + make_interval(secs => $6)" };
    ($other:ident) => {
        concat!(
            "case when v.step = 'renewed' then v.", stringify!($other),
            " else excluded.", stringify!($other), " end"
        )
    };
}

/// Acquire or renew: `$3` user, `$4` user_info, `$5` session or NULL, `$6` seconds to live, `$7` transfer.
///
/// If the row appeared between `prev` and the insert, the result is empty: ask again.
pub const ACQUIRE: &str = concat!(
    "/* acquire */
",
    preamble!(blocked),
    ", verdict as materialized (
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
    insert into appointment_lock as l (tenant_id, appointment_id, ",
    row!(name),
    ")
    select $1, $2, ",
    row!(first_grant),
    "
    from at where not exists (select from blocked)
    on conflict (tenant_id, appointment_id) do update set
        (",
    row!(name),
    ") = (
            select ",
    row!(grant_or_renewal),
    "
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
select true as changed, at.now, coalesce((select v.ran_out from verdict v), false) as ran_out, ",
    state!("w"),
    "
from won w, at
union all
select false, v.now, false, ",
    state!("v"),
    "
from verdict v where v.step is null",
    or_blocked!(),
);

#[rustfmt::skip]
macro_rules! active {
    (user_info) => {
        "user_info = case when $4::jsonb is null then p.user_info
            else p.user_info || jsonb_build_object('position', $4::jsonb) end"
    };
    (expires_at) => { "expires_at = greatest(p.expires_at, at.now - make_interval(secs => $6) + make_interval(secs => $5))" };
    ($kept:ident) => { concat!(stringify!($kept), " = p.", stringify!($kept)) };
}

#[rustfmt::skip]
macro_rules! after_activity {
    (user_info) => { "coalesce(d.user_info, p.user_info) as user_info" };
    (expires_at) => { "coalesce(d.expires_at, p.expires_at) as expires_at" };
    ($kept:ident) => { concat!("p.", stringify!($kept)) };
}

/// The holder's activity: `$3` user, `$4` position or NULL, `$5` seconds to live, `$6` seconds since the activity.
pub const RENEW: &str = concat!(
    "/* renew */
",
    preamble!(blocked),
    ", done as (
    update appointment_lock l set version = p.version + 1, reason = 'renewed', ",
    lease!(active),
    "
    from prev p, at
    where l.tenant_id = p.tenant_id and l.appointment_id = p.appointment_id
        and p.user_id = $3 and p.expires_at > at.now
    returning l.*
)
select d.version is not null as changed, at.now, false as ran_out,
    coalesce(d.version, p.version) as version, coalesce(d.reason, p.reason) as reason, ",
    lease!(after_activity),
    ", p.fencing_token
from at left join prev p on true left join done d on true
where not exists (select from blocked)",
    or_blocked!(),
);

/// The holder's release: `$3` user, `$4` session or NULL, `$5` token or NULL.
pub const RELEASE: &str = concat!(
    "/* release */
",
    preamble!(blocked),
    ", done as (
    ",
    freed!("released"),
    "
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
",
    released_lease!(),
    "
where not exists (select from blocked)",
    or_blocked!(),
);

/// An admin's release of any lease: `$3` token or NULL, `$4` admin, `$5` admin_info or NULL, `$6` comment or NULL.
pub const FORCE_RELEASE: &str = concat!(
    "/* force_release */
",
    preamble!(),
    ", done as (
    ",
    freed!("forced"),
    "
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
",
    released_lease!(),
);

#[rustfmt::skip]
macro_rules! first_taken_over {
    (version) => { "1" };
    (fencing_token) => { "1" };
    (reason) => { "'taken-over'" };
    (user_id) => { "$4" };
    (user_info) => { "$7" };
    (granted_at) => { "v.now" };
    (expires_at) => { "v.now + make_interval(secs => $8)" };
    ($other:ident) => { "null" };
}

#[rustfmt::skip]
macro_rules! taken_over {
    (version) => { "v.version + case when v.ran_out then 2 else 1 end" };
    (fencing_token) => { "v.fencing_token + 1" };
    (reason) => { "'taken-over'" };
    (user_id) => { "$4" };
    (user_info) => { "$7::jsonb" };
    (session_id) => { "null" };
    (granted_at) => { "v.now" };
    (expires_at) => { "v.now + make_interval(secs => $8)" };
    ($other:ident) => { concat!("excluded.", stringify!($other)) };
}

/// An admin's take-over: `$3` token or NULL, `$4` admin, `$5` admin_info or NULL, `$6` comment or NULL,
/// `$7` the admin as holder, `$8` seconds to live. A free lock is taken too, unless a token was named.
/// If the row appeared between `prev` and the insert, the result is empty: ask again.
pub const TAKE_OVER: &str = concat!(
    "/* take_over */
",
    preamble!(),
    ", verdict as materialized (
    select at.now, p.version, p.fencing_token, coalesce(p.user_id is not null and p.expires_at <= at.now, false) as ran_out,
        $3::bigint is null or coalesce(p.fencing_token = $3 and p.expires_at > at.now, false) as may
    from at left join prev p on true
), won as (
    insert into appointment_lock as l (tenant_id, appointment_id, ",
    row!(name),
    ")
    select $1, $2, ",
    row!(first_taken_over),
    "
    from verdict v where v.may
    on conflict (tenant_id, appointment_id) do update set
        (",
    row!(name),
    ") = (
            select ",
    row!(taken_over),
    "
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
select true as changed, v.now, v.ran_out, ",
    state!("w"),
    "
from won w, verdict v
union all
select false, v.now, false, ",
    state!("p"),
    "
from verdict v left join prev p on true where not v.may",
);
