//! What the question who may read costs a warm blob.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use darter_integration::{darter::Part, repetitions, report::can_use};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use crate::company::{ALICE, Company};

/// A connection that a client keeps.
struct Kept {
    socket: TcpStream,
    read: Vec<u8>,
}

impl Kept {
    async fn to(part: &Part) -> Result<Self> {
        let socket = TcpStream::connect(part.address("mirror")).await?;
        socket.set_nodelay(true)?;
        let read = Vec::new();
        Ok(Self { socket, read })
    }

    /// How long the first byte of a body of `size` bytes takes; the others are read, too.
    async fn first_byte(&mut self, path: &str, shown: &str, size: usize) -> Result<Duration> {
        self.read.clear();
        let began = Instant::now();
        let request =
            format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nAuthorization: {shown}\r\n\r\n");
        self.socket.write_all(request.as_bytes()).await?;
        let body = loop {
            ensure!(
                self.socket.read_buf(&mut self.read).await? > 0,
                "{path}: it hangs up"
            );
            let end = self.read.windows(4).position(|four| four == b"\r\n\r\n");
            if let Some(body) = end
                .map(|end| end + 4)
                .filter(|body| *body < self.read.len())
            {
                break body;
            }
        };
        let took = began.elapsed();
        ensure!(
            self.read.starts_with(b"HTTP/1.1 200 "),
            "{path}: {:?}",
            self.read.get(..40)
        );
        while self.read.len() < body + size {
            ensure!(
                self.socket.read_buf(&mut self.read).await? > 0,
                "{path}: it ends short"
            );
        }
        Ok(took)
    }
}

/// The same warm blob, which is everybody's in one repository and Alice's in another. Run it
/// with a release build in `DARTER_BIN`, and `DARTER_TEST_LONG=1`.
#[tokio::test(flavor = "multi_thread")]
async fn the_first_byte_of_a_warm_private_blob() -> Result<()> {
    /// Of the median: of one in a hundred the machine's other work has more to say.
    const MOST: Duration = Duration::from_micros(300);
    let test = "the_first_byte_of_a_warm_private_blob";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let rounds = repetitions(100, 2000);
    let company = Company::found_with(Duration::from_secs(600), "info").await?;
    let (shared, alice) = (
        &company.private.layers[0],
        company.bearer(ALICE, "team/app").await?,
    );
    let paths = ["library/app", "team/app"];
    let paths = paths.map(|name| format!("/v2/{name}/blobs/{}?ns=corp.test", shared.digest));
    let mut client = Kept::to(&company.node).await?;
    let mut took = [Vec::new(), Vec::new()];
    for round in 0..=rounds {
        for (path, took) in paths.iter().zip(&mut took) {
            let first = client.first_byte(path, &alice, shared.bytes.len());
            let first = first.await?;
            // The first time is the one that is remembered.
            if round > 0 {
                took.push(first);
            }
        }
    }
    let mut added = Vec::new();
    for percent in [50, 99] {
        let [public, private] = took.each_mut().map(|took| {
            took.sort_unstable();
            took[took.len() * percent / 100]
        });
        println!(
            "first byte of a warm blob, {rounds} times each, p{percent}: {public:?} public, {private:?} private, {:?} more",
            private.saturating_sub(public)
        );
        added.push((private.saturating_sub(public), public));
    }
    let all = remembered_within(&company, "+Inf").await?;
    // What is everybody's is told without being asked for, once it was shown.
    ensure!(all >= rounds as f64 - 1.0, "{all} answers from memory");
    for bound in ["0.00003", "0.0001", "0.0003", "0.001"] {
        let within = remembered_within(&company, bound).await?;
        println!("the check itself within {bound} s: {within} of {all}");
    }
    let (added, public) = added[0];
    // Where all is slow, so is the question.
    ensure!(added <= MOST.max(public / 4), "{added:?} more");
    Ok(())
}

/// Answers from memory that took no longer than `bound` seconds.
pub(crate) async fn remembered_within(company: &Company, bound: &str) -> Result<f64> {
    let labels = format!("le=\"{bound}\",answer=\"remembered\"");
    let name = "darter_proxy_rights_seconds_bucket";
    company.node.metric(name, &labels).await
}
