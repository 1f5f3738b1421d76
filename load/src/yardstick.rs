//! PostgreSQL alone as the yardstick: pgbench with the same two statements, literals in the place of parameters.

use std::fs;
use std::process::Command;
use std::time::Duration;

use apptlock::dev::{self, Server};
use apptlock::store::sql;

use crate::Failure;

/// Cycles per second.
pub(crate) fn pgbench(postgres: &Server, clients: usize, length: Duration) -> Result<f64, Failure> {
    let appointment = "('pgbench-' || :client_id)::text";
    let user = "('user' || :client_id)::text";
    let info = r#"'{"name":"User","email":"user@example.com"}'::jsonb"#;
    let acquire = fill(
        sql::ACQUIRE,
        &[
            "''::text",
            appointment,
            user,
            info,
            "null::text",
            "300::float8",
            "false",
        ],
    );
    let release = fill(
        sql::RELEASE,
        &["''::text", appointment, user, "null::text", "null::bigint"],
    );
    let script = std::env::temp_dir().join(format!("apptlock-bench-{}.sql", std::process::id()));
    fs::write(&script, format!("{acquire};\n{release};\n"))?;
    let program = dev::find("initdb")
        .and_then(|initdb| fs::canonicalize(initdb).ok())
        .ok_or("no PostgreSQL")?;
    let out = Command::new(program.with_file_name("pgbench"))
        .args(["--no-vacuum", "--protocol=prepared", "--jobs=2"])
        .arg(format!("--client={clients}"))
        .arg(format!("--time={}", length.as_secs()))
        .arg("--file")
        .arg(&script)
        .arg(&postgres.url)
        .output()?;
    let _ = fs::remove_file(&script);
    let said = String::from_utf8_lossy(&out.stdout);
    let rate = said
        .lines()
        .find_map(|line| line.strip_prefix("tps = "))
        .and_then(|rest| rest.split(' ').next());
    match rate {
        Some(rate) if out.status.success() => Ok(rate.parse()?),
        _ => Err(format!("pgbench failed: {}", String::from_utf8_lossy(&out.stderr)).into()),
    }
}

/// Puts values in the places of `$1`, `$2`…; from the last, so that `$1` is not found in `$10`. Comments go,
/// since pgbench would read a colon in them as a variable.
fn fill(statement: &str, values: &[&str]) -> String {
    let mut filled = statement.to_owned();
    for (n, value) in values.iter().enumerate().rev() {
        filled = filled.replace(&format!("${}", n + 1), value);
    }
    filled
}
