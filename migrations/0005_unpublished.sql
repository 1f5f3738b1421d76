-- The table of changes that may not have reached the other replicas gets the name that the code has for them. Replicas of
-- the release before go on using the old name during an update, and after going back: a view has it, which PostgreSQL
-- updates through. A later release may drop the view.

alter table unannounced rename to unpublished;
alter table unpublished rename constraint unannounced_pkey to unpublished_pkey;

create view unannounced as select replica, at from unpublished;

comment on view unannounced is 'The table unpublished by its old name, for replicas of the release before.';

-- Replicas may have an account of their own, whose privileges stay with the table: the view needs the same.
do $$
declare
    privilege record;
begin
    for privilege in
        select a.privilege_type as kind, case a.grantee when 0 then 'public' else a.grantee::regrole::text end as grantee
        from pg_class c
        cross join aclexplode(c.relacl) a
        where c.oid = 'unpublished'::regclass and a.grantee <> c.relowner
            and a.privilege_type in ('SELECT', 'INSERT', 'UPDATE', 'DELETE')
    loop
        execute format('grant %s on unannounced to %s', privilege.kind, privilege.grantee);
    end loop;
end
$$;
