//! TLS to PostgreSQL and Redis, with real servers and certificates made for the test: trusted authorities, and
//! rejection of all others.

use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use apptlock::dev;

use crate::support::{Socket, Stack, auth, fresh, until};

/// An authority, and a certificate of 127.0.0.1 that it has signed.
struct Authority {
    folder: PathBuf,
}

fn openssl(folder: &Path, args: &str) {
    let made = Command::new("openssl")
        .args(args.split_whitespace())
        .current_dir(folder)
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
}

impl Authority {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(fresh("apptlock-tls"));
        std::fs::create_dir_all(&folder).unwrap();
        let ca = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -days 2 -keyout ca.key -out ca.pem \
            -subj /CN=test-authority -addext basicConstraints=critical,CA:TRUE -addext keyUsage=critical,keyCertSign";
        openssl(&folder, ca);
        let wish = "req -new -newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes -keyout server.key -out server.csr \
            -subj /CN=server -addext subjectAltName=IP:127.0.0.1";
        openssl(&folder, wish);
        let sign = "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -copy_extensions copy \
            -out server.pem";
        openssl(&folder, sign);
        Self { folder }
    }

    fn file(&self, name: &str) -> String {
        self.folder.join(name).to_str().unwrap().to_owned()
    }

    /// Changes the owner of the server's key to the server's user.
    fn hand_over(&self, like: &Path) {
        use std::os::unix::fs::MetadataExt;
        let owner = std::fs::metadata(like).unwrap();
        for name in ["server.key", "server.pem", "ca.pem"] {
            let file = self.folder.join(name);
            chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
            std::fs::set_permissions(&file, PermissionsExt::from_mode(0o600)).unwrap();
        }
        chown(&self.folder, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}

impl Drop for Authority {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_is_reached_by_tls_with_the_certificate_checked() {
    let server = dev::postgres(&std::env::temp_dir().join("apptlock-tests")).unwrap();
    let (trusted, other) = (Authority::new(), Authority::new());
    let mut stack = Stack::empty_on(&server.url, &[]).await;
    let data: String = sqlx::query_scalar("show data_directory")
        .fetch_one(&stack.pool)
        .await
        .unwrap();
    trusted.hand_over(Path::new(&data));
    for (name, value) in [
        ("ssl_cert_file", trusted.file("server.pem")),
        ("ssl_key_file", trusted.file("server.key")),
        ("ssl", "on".into()),
    ] {
        let set = format!("alter system set {name} = '{value}'");
        sqlx::query(sqlx::AssertSqlSafe(set))
            .execute(&stack.pool)
            .await
            .unwrap();
    }
    sqlx::query("select pg_reload_conf()")
        .execute(&stack.pool)
        .await
        .unwrap();
    until("PostgreSQL has TLS", async || {
        let ssl: String = sqlx::query_scalar("show ssl")
            .fetch_one(&stack.pool)
            .await
            .unwrap();
        ssl == "on"
    })
    .await;
    let by = |authority: &Authority| {
        format!(
            "{}?sslmode=verify-full&sslrootcert={}",
            stack.database,
            authority.file("ca.pem")
        )
    };
    let (good, bad) = (by(&trusted), by(&other));
    stack.add_with(&[("DATABASE_URL", &good)]).await;
    stack.add_alone(&[("DATABASE_URL", &bad)]).await;
    let id = fresh("tls");
    assert_eq!(stack.replicas[0].acquire(&id, "ann").await.status, 201);
    let plain: i64 = sqlx::query_scalar(
        "select count(*) from pg_stat_ssl join pg_stat_activity using (pid) where application_name = 'apptlock' and not ssl",
    )
    .fetch_one(&stack.pool)
    .await
    .unwrap();
    assert_eq!(plain, 0, "a connection without TLS");
    let refused = stack.replicas[1].acquire(&id, "ann").await;
    assert_eq!(
        refused.status, 503,
        "an authority that was not named: {refused:?}"
    );
    assert!(!stack.replicas[1].log().contains("geheim"));
}

struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Minimal permissions that apptlock needs at Redis.
const ACL: &str = "--user apptlock on >geheim resetchannels &apptlock:* -@all +hello +auth +ping +quit +client \
    +info +subscribe +unsubscribe +ssubscribe +sunsubscribe +publish +spublish";

#[tokio::test(flavor = "multi_thread")]
#[ignore = "it measures time: make test-rust runs it alone"]
async fn redis_is_reached_by_tls_as_a_user_with_few_rights() {
    let (trusted, other) = (Authority::new(), Authority::new());
    let port = dev::free_port().unwrap();
    let program = dev::find("redis-server").expect("redis-server");
    let child = Command::new(program)
        .args([
            "--port",
            "0",
            "--bind",
            "127.0.0.1",
            "--save",
            "",
            "--appendonly",
            "no",
        ])
        .args(["--tls-port", &port.to_string(), "--tls-auth-clients", "no"])
        .args(["--tls-cert-file", &trusted.file("server.pem")])
        .args(["--tls-key-file", &trusted.file("server.key")])
        .args(["--tls-ca-cert-file", &trusted.file("ca.pem")])
        .args(ACL.split_whitespace())
        .args(["--user", "default", "off"])
        .stdout(Stdio::null())
        .spawn()
        .unwrap();
    let _server = Server(child);
    let since = Instant::now();
    while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
        assert!(
            since.elapsed() < Duration::from_secs(10),
            "Redis did not start"
        );
    }
    let url = format!("rediss://apptlock:geheim@127.0.0.1:{port}");
    let mut stack = Stack::empty(&[("REDIS_URL", &url)]).await;
    for _ in 0..2 {
        stack
            .add_with(&[("REDIS_CA_FILE", &trusted.file("ca.pem"))])
            .await;
    }
    let id = fresh("tls");
    let mut there = Socket::connect(&stack.replicas[1], auth("ben")).await;
    there.subscribe(&id).await;
    let since = Instant::now();
    stack.replicas[0].acquire(&id, "ann").await;
    there.expect("lock-acquired").await;
    assert!(
        since.elapsed() < Duration::from_millis(500),
        "not over Redis: {:?}",
        since.elapsed()
    );
    let stranger = stack
        .add_alone(&[("REDIS_CA_FILE", &other.file("ca.pem"))])
        .await;
    stranger.await_line("could not connect to Redis for subscribing");
    assert!(!stranger.log().contains("geheim"), "{}", stranger.log());
}
