//! A TCP proxy in this process, between a replica and a server, that fails on demand: it stalls like a black hole,
//! resets like a broken network, or delays.
//!
//! ```text
//!             pass      stall      cut       delay          strand
//!   old       flows     waits      reset     flows later    waits forever
//!   new       flows     waits      reset     flows later    as before
//! ```
//!
//! Each connection is a task that holds at most [`CHUNK`] times [`QUEUE`] bytes in each direction, and sleeps
//! until bytes or a change of mode come. Dropping the proxy ends them all. A failure of either end resets the
//! other: as tests of failures expect.

use std::collections::VecDeque;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep_until};

/// Maximum bytes in one piece.
const CHUNK: usize = 16 * 1024;
/// Maximum delayed pieces in one direction.
const QUEUE: usize = 64;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Mode {
    Pass,
    Stall,
    Cut,
    Delay(Duration),
}

/// Mode of all connections.
#[derive(Debug, Clone, Copy)]
struct Orders {
    mode: Mode,
    /// Connections of an earlier generation are reset.
    generation: u64,
    /// Connections of an earlier generation stall forever.
    stranded: Option<Instant>,
}

impl Orders {
    /// True when bytes flow over a connection that began at `since`.
    fn flow(&self, since: Instant) -> bool {
        self.mode != Mode::Stall && self.stranded.is_none_or(|then| since > then)
    }
}

/// A proxy; its port stands for the server's.
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    orders: watch::Sender<Orders>,
    listening: JoinHandle<()>,
}

impl Proxy {
    /// Listens on a port of 127.0.0.1 for connections to `upstream`, which need not be there yet.
    pub async fn start(upstream: impl Into<SocketAddr>) -> io::Result<Self> {
        let upstream = upstream.into();
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let port = listener.local_addr()?.port();
        let (orders, obey) = watch::channel(Orders {
            mode: Mode::Pass,
            generation: 0,
            stranded: None,
        });
        let listening = tokio::spawn(listen(listener, upstream, obey));
        Ok(Self {
            port,
            orders,
            listening,
        })
    }

    /// The port on 127.0.0.1 on which it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Everything flows.
    pub fn pass(&self) {
        self.order(Mode::Pass);
    }

    /// Connections stay and are made, and nothing flows.
    pub fn stall(&self) {
        self.order(Mode::Stall);
    }

    /// Connections are reset, old and new.
    pub fn cut(&self) {
        self.order(Mode::Cut);
    }

    /// Everything flows, later by `by`.
    pub fn delay(&self, by: Duration) {
        self.order(Mode::Delay(by));
    }

    /// Resets the existing connections; new ones are unaffected.
    pub fn reset(&self) {
        self.orders.send_modify(|orders| orders.generation += 1);
    }

    /// Stalls the existing connections forever; new ones are unaffected.
    pub fn strand(&self) {
        self.orders
            .send_modify(|orders| orders.stranded = Some(Instant::now()));
    }

    fn order(&self, mode: Mode) {
        self.orders.send_modify(|orders| orders.mode = mode);
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        // The connections end when the channel of modes is closed.
        self.listening.abort();
    }
}

async fn listen(listener: TcpListener, upstream: SocketAddr, obey: watch::Receiver<Orders>) {
    loop {
        match listener.accept().await {
            Ok((client, _)) => drop(tokio::spawn(serve(client, upstream, obey.clone()))),
            // A client that disconnected before it was accepted, or no descriptors left: both are temporary.
            Err(_) => tokio::time::sleep(Duration::from_millis(20)).await,
        }
    }
}

/// One connection, to its end or until it is cut.
async fn serve(mut client: TcpStream, upstream: SocketAddr, mut obey: watch::Receiver<Orders>) {
    let (mut flow, since) = (obey.clone(), Instant::now());
    let generation = obey.borrow_and_update().generation;
    let cut = async move {
        // An error: the proxy was dropped, which cuts too.
        let _ = obey
            .wait_for(|orders| orders.mode == Mode::Cut || orders.generation != generation)
            .await;
    };
    tokio::pin!(cut);
    reset_when_dropped(&client);
    let server = async {
        // A black hole has no other side.
        flow.wait_for(|orders| orders.flow(since))
            .await
            .map_err(io::Error::other)?;
        TcpStream::connect(upstream).await
    };
    let mut server = tokio::select! {
        () = &mut cut => return,
        connected = server => match connected {
            Ok(server) => server,
            Err(_) => return,
        },
    };
    reset_when_dropped(&server);
    let _ = client.set_nodelay(true);
    let _ = server.set_nodelay(true);
    let ended_well = {
        let (from_client, to_client) = client.split();
        let (from_server, to_server) = server.split();
        let both = async {
            tokio::try_join!(
                relay(from_client, to_server, flow.clone(), since),
                relay(from_server, to_client, flow.clone(), since),
            )
        };
        tokio::select! {
            () = &mut cut => false,
            done = both => done.is_ok(),
        }
    };
    if ended_well {
        for stream in [&client, &server] {
            let _ = SockRef::from(stream).set_linger(None);
        }
    }
}

/// Makes the end of a connection a reset, so that the other end sees a failure instead of an orderly close.
fn reset_when_dropped(stream: &TcpStream) {
    let _ = SockRef::from(stream).set_linger(Some(Duration::ZERO));
}

/// One direction, until it ends.
async fn relay(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    mut obey: watch::Receiver<Orders>,
    since: Instant,
) -> io::Result<()> {
    let mut buffer = vec![0; CHUNK];
    let mut queue: VecDeque<(Instant, Vec<u8>)> = VecDeque::new();
    let mut open = true;
    while open || !queue.is_empty() {
        let due = queue.front().map(|(due, _)| *due);
        tokio::select! {
            biased;
            () = sleep_until(due.unwrap_or_else(Instant::now)), if due.is_some() => {
                flowing(&mut obey, since).await?;
                if let Some((_, chunk)) = queue.pop_front() {
                    to.write_all(&chunk).await?;
                }
            }
            read = from.read(&mut buffer), if open && queue.len() < QUEUE => {
                let n = read?;
                open = n > 0;
                match flowing(&mut obey, since).await? {
                    Mode::Delay(by) => queue.push_back((Instant::now() + by, buffer[..n].to_vec())),
                    // Delayed pieces are sent first, although the delay is over.
                    _ if !queue.is_empty() => queue.push_back((Instant::now(), buffer[..n].to_vec())),
                    _ => to.write_all(&buffer[..n]).await?,
                }
            }
        }
    }
    to.shutdown().await
}

/// The mode, once it is one in which bytes flow.
async fn flowing(obey: &mut watch::Receiver<Orders>, since: Instant) -> io::Result<Mode> {
    obey.wait_for(|orders| orders.flow(since))
        .await
        .map(|orders| orders.mode)
        .map_err(io::Error::other)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SHORT: Duration = Duration::from_millis(150);

    async fn echo() -> SocketAddr {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    tokio::io::copy(&mut from, &mut to).await
                });
            }
        });
        address
    }

    /// Sends a word and waits for its echo; `None` if nothing comes for a while.
    async fn say(stream: &mut TcpStream) -> Option<io::Result<()>> {
        let exchange = async {
            stream.write_all(b"word").await?;
            let mut heard = [0; 4];
            stream.read_exact(&mut heard).await?;
            assert_eq!(&heard, b"word");
            Ok(())
        };
        tokio::time::timeout(SHORT, exchange).await.ok()
    }

    #[tokio::test]
    async fn a_proxy_passes_stalls_cuts_resets_and_delays() {
        let proxy = Proxy::start(echo().await).await.unwrap();
        let connect = || TcpStream::connect((Ipv4Addr::LOCALHOST, proxy.port()));
        let mut old = connect().await.unwrap();
        assert!(matches!(say(&mut old).await, Some(Ok(()))), "it passes");

        proxy.stall();
        assert!(say(&mut old).await.is_none(), "an old connection waits");
        let mut new = connect().await.unwrap();
        assert!(say(&mut new).await.is_none(), "a new one waits");
        proxy.pass();
        let mut late = [0; 4];
        for stream in [&mut old, &mut new] {
            stream.read_exact(&mut late).await.unwrap();
            assert_eq!(&late, b"word", "what waited comes after all");
        }

        proxy.delay(Duration::from_millis(40));
        let since = Instant::now();
        assert!(matches!(say(&mut old).await, Some(Ok(()))), "it comes");
        assert!(since.elapsed() >= Duration::from_millis(80), "there, back");

        proxy.pass();
        proxy.reset();
        assert!(matches!(say(&mut old).await, Some(Err(_))), "it is reset");
        let mut new = connect().await.unwrap();
        assert!(matches!(say(&mut new).await, Some(Ok(()))), "a new one is");

        proxy.strand();
        assert!(say(&mut new).await.is_none(), "it is stranded");
        let mut new = connect().await.unwrap();
        assert!(matches!(say(&mut new).await, Some(Ok(()))), "a new one is");

        proxy.cut();
        assert!(matches!(say(&mut new).await, Some(Err(_))), "it is cut");
        let mut refused = connect().await.unwrap();
        assert!(matches!(say(&mut refused).await, Some(Err(_))), "and stays");
        proxy.pass();
        let mut back = connect().await.unwrap();
        assert!(matches!(say(&mut back).await, Some(Ok(()))), "it is back");
    }
}
