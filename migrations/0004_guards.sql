-- What a back end's save check finds, and what a message between replicas is worth.

-- The check names its table by the schema that it really is in. A search path that is only pinned is not enough: it
-- holds "$user", which is another schema for each role that calls. And pg_temp comes last, where a caller's own
-- temporary table cannot stand in for a real one.
--
-- It also takes the user that the lease must be of: without it, whoever knows a token can save with it.
do $migration$
declare
    here     text;
    grants   text[];
    line     text;
begin
    select n.nspname into strict here
    from pg_class c join pg_namespace n on n.oid = c.relnamespace
    where c.oid = 'appointment_lock'::regclass;

    -- Who was allowed to call it stays allowed, where that was narrowed.
    select array_agg(case when a.grantee = 0 then 'public' else a.grantee::regrole::text end
        || case when a.is_grantable then ' with grant option' else '' end) into grants
    from pg_proc p, aclexplode(p.proacl) a
    where p.oid = format('%I.apptlock_assert_lease(text, bigint, text)', here)::regprocedure
        and a.privilege_type = 'EXECUTE';

    execute format('drop function %I.apptlock_assert_lease(text, bigint, text)', here);

    execute format($create$
        create function %1$I.apptlock_assert_lease(
            p_appointment_id text, p_fencing_token bigint, p_tenant_id text default '', p_user_id text default null)
        returns void
        language plpgsql
        set search_path = pg_catalog, pg_temp
        as $function$
        declare
            held %1$I.appointment_lock%%rowtype;
        begin
            select * into held
            from %1$I.appointment_lock
            where tenant_id = p_tenant_id and appointment_id = p_appointment_id
            for share;

            if not found
                or held.user_id is null
                or held.fencing_token is distinct from p_fencing_token
                or held.expires_at <= clock_timestamp()
            then
                raise exception 'apptlock: the lease on appointment %% with fencing token %% is not in force',
                    p_appointment_id, p_fencing_token
                    using errcode = 'object_not_in_prerequisite_state',
                          hint = 'Acquire the lock again, show the user what changed, and only then save.';
            end if;
            if p_user_id is not null and held.user_id <> p_user_id then
                raise exception 'apptlock: the lease on appointment %% with fencing token %% is not held by %%',
                    p_appointment_id, p_fencing_token, p_user_id
                    using errcode = 'object_not_in_prerequisite_state',
                          hint = 'Pass the user who saves, as the lease names its holder.';
            end if;
        end
        $function$
    $create$, here);

    if grants is not null then
        execute format('revoke all on function %I.apptlock_assert_lease(text, bigint, text, text) from public', here);
        foreach line in array grants loop
            execute format('grant execute on function %I.apptlock_assert_lease(text, bigint, text, text) to %s', here, line);
        end loop;
    end if;

    execute format($comment$
        comment on function %I.apptlock_assert_lease(text, bigint, text, text) is
        'Raises an error (SQLSTATE 55000) unless that lease is in force, and that user''s where one is named; holds it until the transaction ends.'
    $comment$, here);
end
$migration$;

-- Whoever reaches Redis can publish there. Replicas sign what they tell each other, and believe nothing else.
alter table installation add column bus_key bytea not null
    default decode(replace(gen_random_uuid()::text || gen_random_uuid()::text, '-', ''), 'hex')
    check (octet_length(bus_key) = 32);
alter table installation alter column bus_key drop default;

comment on column installation.bus_key is 'The key that replicas sign their messages on Redis with (HMAC-SHA256), by chance. Known to nobody else.';
