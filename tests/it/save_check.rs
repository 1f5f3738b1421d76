//! The check inside a back end's saving transaction: `apptlock_assert_lease`, called by any role.

use sqlx::{Connection, Executor, PgConnection};

use crate::support::{Proxy, Stack, fresh, migrate, servers};

async fn run(connection: &mut PgConnection, sql: &str) {
    let sql = sqlx::AssertSqlSafe(sql.to_owned());
    connection.execute(sql).await.unwrap();
}

/// A database whose schema is named after its owner, as `"$user"` in the usual search path makes it, and a connection
/// to it as its superuser.
async fn owned() -> (String, PgConnection) {
    let (root, name) = (
        &servers().postgres.url,
        format!("t{}", uuid::Uuid::new_v4().simple()),
    );
    let mut admin = PgConnection::connect(root).await.unwrap();
    run(
        &mut admin,
        &format!("create role owner_{name} login; create role caller_{name} login"),
    )
    .await;
    run(
        &mut admin,
        &format!("create database {name} owner owner_{name}"),
    )
    .await;
    let url = root.replace("/postgres", &format!("/{name}"));
    let mut admin = PgConnection::connect(&url).await.unwrap();
    run(
        &mut admin,
        &format!("create schema owner_{name} authorization owner_{name}"),
    )
    .await;
    (name, admin)
}

fn as_role(name: &str, role: &str) -> String {
    let root = &servers().postgres.url;
    let (_, at) = root.split_once('@').unwrap();
    format!("postgres://{role}_{name}@{at}")
        .replace("/postgres?", &format!("/{name}?"))
        .replace("/postgres", &format!("/{name}"))
}

#[tokio::test]
async fn it_finds_the_real_table_whoever_calls_and_whatever_lies_in_the_way() {
    let (name, mut admin) = owned().await;
    migrate(&as_role(&name, "owner"));
    let mut owner = PgConnection::connect(&as_role(&name, "owner"))
        .await
        .unwrap();
    run(&mut owner, "insert into appointment_lock values ('', 'a', 1, 7, 'acquired', 'ann', '{}', null, clock_timestamp(), clock_timestamp() + interval '1 hour')").await;
    for grant in [
        format!("grant usage on schema owner_{name} to caller_{name}"),
        format!("grant select, update on owner_{name}.appointment_lock to caller_{name}"),
    ] {
        run(&mut owner, &grant).await;
    }
    // Decoys in the caller's own schema and among its temporary tables, on which the check would pass.
    run(
        &mut admin,
        &format!("create schema caller_{name} authorization caller_{name}"),
    )
    .await;
    let mut caller = PgConnection::connect(&as_role(&name, "caller"))
        .await
        .unwrap();
    for schema in [format!("caller_{name}."), "pg_temp.".into()] {
        run(
            &mut caller,
            &format!("create table {schema}appointment_lock (like owner_{name}.appointment_lock)"),
        )
        .await;
        run(&mut caller, &format!("insert into {schema}appointment_lock values ('', 'a', 1, 8, 'acquired', 'eve', '{{}}', null, clock_timestamp(), clock_timestamp() + interval '1 hour')")).await;
    }
    for path in [
        "\"$user\", public",
        "pg_temp, \"$user\", public",
        "pg_catalog",
    ] {
        run(&mut caller, &format!("set search_path = {path}")).await;
        for (token, good) in [(7_i64, true), (8, false)] {
            let sql = format!("select owner_{name}.apptlock_assert_lease('a', {token})");
            let outcome = caller.execute(sqlx::AssertSqlSafe(sql)).await;
            assert_eq!(outcome.is_ok(), good, "{path}, {token}: {outcome:?}");
        }
    }
    let mut owner = PgConnection::connect(&as_role(&name, "owner"))
        .await
        .unwrap();
    run(&mut owner, "select apptlock_assert_lease('a', 7)").await;
}

#[tokio::test]
async fn it_checks_the_user_where_one_is_named() {
    let stack = Stack::start(1, &[]).await;
    let id = fresh("whose");
    let token = stack.replicas[0].acquire(&id, "ann").await.token();
    let check = async |user: Option<&str>| {
        sqlx::query("select apptlock_assert_lease($1, $2, '', $3)")
            .bind(&id)
            .bind(token)
            .bind(user)
            .execute(&stack.pool)
            .await
    };
    check(None).await.unwrap();
    check(Some("ann")).await.unwrap();
    let refused = check(Some("eve")).await.unwrap_err();
    let fault = refused.as_database_error().unwrap();
    assert_eq!(fault.code().as_deref(), Some("55000"));
    assert!(fault.message().ends_with("is not held by eve"), "{fault}");
}

/// An operator's restriction of the right to call it survives the migration.
#[tokio::test]
async fn a_migration_keeps_who_may_call_it() {
    let stack = Stack::empty(&[]).await;
    let mut admin = PgConnection::connect(&stack.database).await.unwrap();
    // A name that needs quotes.
    let role = format!("back-end_{}", uuid::Uuid::new_v4().simple());
    run(&mut admin, &format!("create role \"{role}\"")).await;
    // As the previous release left it, then changed by an operator.
    run(&mut admin, "drop function apptlock_assert_lease(text, bigint, text, text);
        create function apptlock_assert_lease(text, bigint, text default '') returns void language sql as 'select';
        alter table installation drop column bus_key").await;
    run(
        &mut admin,
        &format!(
            "revoke all on function apptlock_assert_lease(text, bigint, text) from public;
        grant execute on function apptlock_assert_lease(text, bigint, text) to \"{role}\" with grant option;
        delete from _sqlx_migrations where version = 4"
        ),
    )
    .await;
    migrate(&stack.database);
    let public: bool = sqlx::query_scalar(
        "select exists(select from aclexplode((select proacl from pg_proc
        where proname = 'apptlock_assert_lease')) where grantee = 0)",
    )
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert!(!public);
    let may: bool = sqlx::query_scalar("select has_function_privilege($1, 'apptlock_assert_lease(text, bigint, text, text)', 'execute with grant option')")
        .bind(&role).fetch_one(&stack.pool).await.unwrap();
    assert!(may);
}

/// As an init container, `migrate` often starts before PostgreSQL.
#[tokio::test(flavor = "multi_thread")]
async fn migrate_waits_for_postgresql_and_says_why_once() {
    let server = (std::net::Ipv4Addr::LOCALHOST, servers().postgres.port);
    let proxy = Proxy::start(server).await.unwrap();
    proxy.cut();
    let stack = Stack::empty(&[]).await;
    let port = format!(":{}/", servers().postgres.port);
    let url = stack
        .database
        .replace(&port, &format!(":{}/", proxy.port()));
    assert_ne!(url, stack.database);
    let within = |limit: &str| {
        let mut command = tokio::process::Command::new(env!("CARGO_BIN_EXE_apptlock"));
        command
            .arg("migrate")
            .env("DATABASE_URL", &url)
            .env("MIGRATE_TIMEOUT", limit);
        command
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped());
        command
    };
    let gave_up = within("1s").output().await.unwrap();
    assert_eq!(gave_up.status.code(), Some(1));
    let mut waiting = within("1m").spawn().unwrap();
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, BufReader};
    let mut said = BufReader::new(waiting.stderr.take().unwrap());
    let mut line = String::new();
    said.read_line(&mut line).await.unwrap();
    assert!(
        line.contains("waiting for it, at most 1m (MIGRATE_TIMEOUT)"),
        "{line}"
    );
    proxy.pass();
    assert!(waiting.wait().await.unwrap().success());
    let mut rest = String::new();
    said.read_to_string(&mut rest).await.unwrap();
    assert_eq!(rest, "");
    // Errors that waiting does not change are reported immediately.
    let wrong = url.replace("postgres://", "postgres://nobody-");
    let since = std::time::Instant::now();
    let refused = within("1m")
        .env("DATABASE_URL", wrong)
        .output()
        .await
        .unwrap();
    assert_eq!(refused.status.code(), Some(1), "{refused:?}");
    assert!(since.elapsed() < std::time::Duration::from_secs(10));
}
