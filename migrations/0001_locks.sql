-- The state of every lock, what happened to it, and who sweeps.

create table appointment_lock (
    tenant_id       text        not null,
    appointment_id  text        not null,
    version         bigint      not null check (version > 0),
    fencing_token   bigint      not null check (fencing_token > 0),
    reason          text        not null,
    user_id         text,
    user_info       jsonb,
    session_id      text,
    granted_at      timestamptz,
    expires_at      timestamptz,
    primary key (tenant_id, appointment_id),
    constraint appointment_lock_held_whole_or_not_at_all check (
        (user_id is not null and user_info is not null and granted_at is not null and expires_at is not null)
        or (user_id is null and user_info is null and granted_at is null and expires_at is null
            and session_id is null)
    )
) with (fillfactor = 70);

create index appointment_lock_expiry on appointment_lock (expires_at) where user_id is not null;

comment on table appointment_lock is
    'One row for each appointment that was ever locked. It stays when the lock is free, so that its counters never restart.';
comment on column appointment_lock.tenant_id is 'Whose appointment it is; the empty string where tenants are not used.';
comment on column appointment_lock.appointment_id is 'The client''s own name for the record: 1 to 200 bytes, no control characters.';
comment on column appointment_lock.version is 'Rises by one with every change of the lock''s state, renewals too. Never reset.';
comment on column appointment_lock.fencing_token is 'Rises by one with every grant. The token of the lease in force, or of the last one where the lock is free. Never reset.';
comment on column appointment_lock.reason is 'What brought the row to this version: the reason of its lock-update event.';
comment on column appointment_lock.user_id is 'The holder. NULL: the lock is free. Not NULL but past expires_at: free too, not swept yet.';
comment on column appointment_lock.user_info is 'The holder as people see them: {name, email, position?}. NULL exactly when user_id is.';
comment on column appointment_lock.session_id is 'The browser tab that the lease belongs to. NULL: free, or a lease of no tab in particular.';
comment on column appointment_lock.granted_at is 'When this lease began. NULL exactly when user_id is.';
comment on column appointment_lock.expires_at is 'When the lease runs out unless it is renewed. NULL exactly when user_id is.';

create table lock_history (
    tenant_id       text        not null,
    appointment_id  text        not null,
    version         bigint      not null,
    reason          text        not null,
    user_id         text        not null,
    user_info       jsonb       not null,
    fencing_token   bigint      not null,
    actor_id        text,
    actor_info      jsonb,
    actor_reason    text,
    at              timestamptz not null,
    primary key (tenant_id, appointment_id, version)
);

create index lock_history_age on lock_history (at);

comment on table lock_history is
    'One row for each grant, release, expiry, forced release, take-over and transfer, written by the statement that did it.';
comment on column lock_history.tenant_id is 'As in appointment_lock.';
comment on column lock_history.appointment_id is 'As in appointment_lock.';
comment on column lock_history.version is 'The version that the transition led to.';
comment on column lock_history.reason is 'acquired, released, expired, forced, taken-over or transferred.';
comment on column lock_history.user_id is 'The holder whose lease began or ended.';
comment on column lock_history.user_info is 'That holder as people saw them then.';
comment on column lock_history.fencing_token is 'The token of the lease that began or ended.';
comment on column lock_history.actor_id is 'The admin who did it. NULL: the holder, or time itself.';
comment on column lock_history.actor_info is 'That admin as people saw them. NULL: not known, or no admin.';
comment on column lock_history.actor_reason is 'Why, in the admin''s words. NULL: no reason given, or no admin.';
comment on column lock_history.at is 'When it happened, by this server''s clock; for an expiry the moment the lease ran out, swept or not.';

create table leader_lease (
    name        text        primary key,
    holder      text        not null,
    term        bigint      not null,
    expires_at  timestamptz not null
);

comment on table leader_lease is 'Which replica does what only one may do. A lease row, not a session lock, so that poolers break nothing.';
comment on column leader_lease.name is 'The duty: sweeper.';
comment on column leader_lease.holder is 'The replica that has it.';
comment on column leader_lease.term is 'Rises with every change of hands. Work done for the duty carries it, so that a stale leader does nothing.';
comment on column leader_lease.expires_at is 'When the duty is free for another replica.';

-- For a back end that shares this database: call it inside the transaction that saves the record.
-- FOR SHARE holds the lease against release, take-over and sweep until that transaction ends, and the
-- clock is read only after the row is held.
create function apptlock_assert_lease(p_appointment_id text, p_fencing_token bigint, p_tenant_id text default '')
returns void
language plpgsql
as $$
declare
    held appointment_lock%rowtype;
begin
    select * into held
    from appointment_lock
    where tenant_id = p_tenant_id and appointment_id = p_appointment_id
    for share;

    if not found
        or held.user_id is null
        or held.fencing_token is distinct from p_fencing_token
        or held.expires_at <= clock_timestamp()
    then
        raise exception 'apptlock: the lease on appointment % with fencing token % is not in force',
            p_appointment_id, p_fencing_token
            using errcode = 'object_not_in_prerequisite_state',
                  hint = 'Acquire the lock again, show the user what changed, and only then save.';
    end if;
end
$$;

comment on function apptlock_assert_lease(text, bigint, text) is
    'Raises an error unless that lease is in force; holds it until the transaction ends.';
