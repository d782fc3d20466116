//! What clients see of a registry that fails, with Darter before it and without: nothing may
//! be worse with Darter. `DARTER_TEST_LONG=1 DARTER_WRITE_FAULTS=1` writes docs/faults.md.

use std::{fmt::Write as _, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darter_integration::{
    clients::{Containerd, Dockerd, skopeo_copy},
    darter::start_proxy,
    http::get,
    image::{Blob, Flavour, Image},
    repetitions,
    report::can_use,
};
use darter_runtime::Tasks;
use futures::future::try_join_all;
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

#[path = "../../proxy/tests/front/clock.rs"]
mod clock;
#[path = "../../proxy/tests/front/registry.rs"]
#[allow(dead_code, reason = "the proxy's own tests use more of it")]
mod registry;

use clock::Clock;
use registry::{End, Registry, Reply, Seen, Shelf};

/// A client that has not ended by then is given up.
const FOR_EVER: Duration = Duration::from_secs(60);
/// So much later than without Darter is no worse: what it tries before it gives up, within the
/// 5 s in which a client is to know.
const BUDGET: Duration = Duration::from_secs(5);
const LAYER: usize = 3_000_000;
const CUT: usize = 1_100_000;
const CLIENTS: [&str; 3] = ["containerd", "dockerd", "skopeo"];

type Twist = fn(&Seen, Reply) -> Reply;

/// A fault of the layer's GET; `once` of its first one only.
struct Fault {
    name: &'static str,
    once: bool,
    twist: Twist,
}

const fn once(name: &'static str, twist: Twist) -> Fault {
    Fault {
        name,
        once: true,
        twist,
    }
}

const fn always(name: &'static str, twist: Twist) -> Fault {
    Fault {
        name,
        once: false,
        twist,
    }
}

/// The first ones are part of every run.
const FAULTS: [Fault; 16] = [
    once("429", |_, _| Reply::new(429).header("Retry-After", "1")),
    once("RST in mid-blob", |_, good| good.end(End::Rst(CUT))),
    once("FIN in mid-blob", |_, good| good.end(End::Fin(CUT))),
    once("503", |_, _| Reply::new(503)),
    once("stall in mid-blob", |_, good| good.end(End::Stall(CUT))),
    once("wrong bytes", |_, good| {
        let mut bytes = good.body.to_vec();
        if let Some(byte) = bytes.get_mut(CUT) {
            *byte ^= 1;
        }
        good.body(bytes)
    }),
    once("too short a content", |_, good| {
        let short = good.body.slice(..good.body.len().min(CUT));
        good.body(short)
    }),
    always("401 in mid-blob", |seen, good| match seen.before {
        0 => good.end(End::Fin(CUT)),
        1 => {
            let host = seen.header("host").unwrap_or_default();
            let challenge = format!("Bearer realm=\"http://{host}/token\",service=\"scripted\"");
            Reply::new(401).header("WWW-Authenticate", challenge)
        }
        _ => good,
    }),
    once("500", |_, _| Reply::new(500)),
    always("403", |_, _| Reply::new(403)),
    always("404", |_, _| Reply::new(404)),
    always("500, always", |_, _| Reply::new(500)),
    always("an endless redirect", |seen, _| {
        Reply::new(302).header("Location", format!("{}?{}", seen.path, seen.before))
    }),
    always("a gzip'd reply", |_, good| {
        good.header("Content-Encoding", "gzip")
    }),
    // Of all requests.
    always(SILENT, |_, _| Reply::silent()),
    always(REFUSED, |_, good| good),
];
const SILENT: &str = "a black hole";
const REFUSED: &str = "connection refused";

/// What a client saw.
#[derive(Debug, Clone)]
struct Saw {
    pulled: bool,
    took: Duration,
    words: String,
}

impl Saw {
    /// It fails where it did not, or the same comes more than [`BUDGET`] later.
    fn is_worse_than(&self, without: &Self) -> bool {
        (without.pulled && !self.pulled) || self.is_late(without)
    }

    fn is_late(&self, without: &Self) -> bool {
        without.pulled == self.pulled && self.took > without.took + BUDGET
    }

    fn cell(&self) -> String {
        let seconds = self.took.as_secs_f64();
        match (self.pulled, self.took >= FOR_EVER) {
            (true, _) => format!("pulled, {seconds:.1} s"),
            (false, true) => format!("still at it after {seconds:.0} s"),
            (false, false) => format!("fails, {seconds:.1} s: {}", self.words),
        }
    }
}

/// The last words of an error, for a table.
fn words(error: &anyhow::Error) -> String {
    let text = format!("{error:#}").replace(['\n', '|', '`'], " ");
    // Other hosts that a client tries last refuse connections, so that comes last.
    let words = [
        "connection reset",
        "401 Unauthorized",
        "403 Forbidden",
        "404 Not Found",
        "429 Too Many Requests",
        "500 Internal Server Error",
        "502 Bad Gateway",
        "503 Service Unavailable",
        "toomanyrequests",
        "unexpected EOF",
        "digest",
        "redirects",
        "gzip",
        "not found",
        "timeout",
        "deadline",
        "connection refused",
    ];
    let found = words.iter().find(|word| text.contains(**word));
    found.map_or_else(|| "another error".to_owned(), |word| (*word).to_owned())
}

fn image(seed: u64, repository: &str) -> Result<Image> {
    Image::of(repository, Flavour::Schema2, vec![Blob::layer(seed, LAYER)])
}

/// A registry with the image, under the names that clients of a mirror use, and its fault.
async fn faulty(fault: &'static Fault, seed: u64, tasks: &Tasks) -> Result<Registry> {
    let mut shelf = Shelf::new();
    let one = image(seed, "library/app")?;
    for name in ["library/app", "docker.io/library/app"] {
        for blob in one.layers.iter().chain([&one.config]) {
            shelf = shelf.blob(name, &blob.bytes);
        }
        for reference in ["1", &one.manifest.to_string()] {
            let path = format!("manifests/{reference}");
            shelf = shelf.raw(name, &path, &one.manifest_bytes, one.media_type);
        }
    }
    let layer = one.layers[0].digest.to_string();
    Ok(Registry::twisted(shelf, tasks, move |seen, good| {
        if fault.name == SILENT {
            return Reply::silent();
        }
        if seen.path == "/v2/" {
            return Reply::new(200).body("{}");
        }
        let hits = seen.method == "GET" && seen.path.ends_with(&layer);
        if hits && (!fault.once || seen.before == 0) {
            (fault.twist)(seen, good)
        } else {
            good
        }
    })
    .await)
}

/// One pull of one client from a registry with a fault.
async fn run(
    dir: PathBuf,
    seed: u64,
    fault: &'static Fault,
    client: &'static str,
    with: bool,
) -> Result<Saw> {
    std::fs::create_dir_all(&dir)?;
    let tasks = Tasks::new();
    let registry = faulty(fault, seed, &tasks).await?;
    let url = match fault.name {
        REFUSED => {
            let closed = TcpListener::bind("127.0.0.1:0").await?;
            format!("http://{}", closed.local_addr()?)
        }
        _ => registry.url(),
    };
    let darter = match with {
        true => {
            let upstream = format!("docker.io={url}");
            Some(start_proxy(&dir, "darter", &upstream, None, &[]).await?)
        }
        false => None,
    };
    let mirror = darter.as_ref().map_or(url, |part| part.mirror());
    let name = "docker.io/library/app:1";
    let (took, pulled) = match client {
        "containerd" => {
            let containerd = Containerd::start(&dir, &mirror).await?;
            timed(containerd.ctr_fetch(name)).await
        }
        "dockerd" => {
            let dockerd = Dockerd::start(&dir, &mirror).await?;
            let pull = async { dockerd.pull("library/app", "1").await.map(drop) };
            let pulled = timed(pull).await;
            // Its end takes this thread for up to 10 s: the others' pulls go on elsewhere.
            tokio::task::block_in_place(|| drop(dockerd));
            pulled
        }
        _ => timed(async { skopeo_copy(&dir, &mirror, name).await.map(drop) }).await,
    };
    drop(darter);
    tasks.stop(Duration::from_secs(60)).await;
    Ok(Saw {
        pulled: pulled.is_ok(),
        took,
        words: pulled.err().map(|error| words(&error)).unwrap_or_default(),
    })
}

#[expect(
    clippy::disallowed_methods,
    reason = "the test waits for each: a client's end takes a thread"
)]
fn on_its_own(run: impl Future<Output = Result<Saw>> + Send + 'static) -> JoinHandle<Result<Saw>> {
    tokio::spawn(run)
}

/// A pull and how long it took: without the client's start and end.
async fn timed(pull: impl Future<Output = Result<()>>) -> (Duration, Result<()>) {
    let tasks = Tasks::new();
    let clock = Clock::start(&tasks);
    let pulled = tokio::time::timeout(FOR_EVER, pull).await;
    let pulled = pulled.context("timeout").flatten();
    let took = clock.now();
    tasks.stop(FOR_EVER).await;
    (took, pulled)
}

#[tokio::test(flavor = "multi_thread")]
async fn nothing_is_worse_with_darter() -> Result<()> {
    let commands = ["containerd", "ctr", "dockerd", "skopeo", "curl"];
    if !can_use("nothing_is_worse_with_darter", &commands, true) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let faults = &FAULTS[..repetitions(2, FAULTS.len())];
    let mut table = String::new();
    let mut worse = Vec::new();
    for (at, fault) in faults.iter().enumerate() {
        // All cells of a row at the same time, each with its own registry and client.
        let cells = CLIENTS
            .into_iter()
            .flat_map(|client| [(client, false), (client, true)]);
        let cells = cells.enumerate().map(|(cell, (client, with))| {
            let seed = at * 2 * CLIENTS.len() + cell;
            let dir = root.join(seed.to_string());
            on_its_own(run(dir, seed as u64, fault, client, with))
        });
        let saw = try_join_all(cells).await?;
        let mut saw = saw.into_iter().collect::<Result<Vec<_>>>()?;
        // Who is late among six clients on a busy machine is looked at again, alone.
        for (number, client) in CLIENTS.into_iter().enumerate() {
            let pair = &mut saw[2 * number..2 * number + 2];
            if pair[1].is_late(&pair[0]) {
                println!(
                    "again: {} {client}: {:?}, {:?} without",
                    fault.name, pair[1], pair[0]
                );
                for (with, saw) in [false, true].into_iter().zip(pair) {
                    let seed = 1000 + 6 * at + 2 * number + usize::from(with);
                    let dir = root.join(seed.to_string());
                    *saw = on_its_own(run(dir, seed as u64, fault, client, with)).await??;
                }
            }
        }
        let when = if fault.once { "once" } else { "always" };
        let mut row = format!("| {}, {when} |", fault.name.trim_end_matches(", always"));
        for (client, saw) in CLIENTS.iter().zip(saw.chunks(2)) {
            let (without, with) = (&saw[0], &saw[1]);
            write!(row, " {} | {} |", without.cell(), with.cell())?;
            if with.is_worse_than(without) {
                let what = format!("{} {client}: {with:?}, {without:?} without", fault.name);
                worse.push(what);
            }
        }
        println!("{row}");
        writeln!(table, "{row}")?;
        if std::env::var_os("DARTER_WRITE_FAULTS").is_some() {
            write_down(&table)?;
        }
    }
    ensure!(worse.is_empty(), "worse with Darter:\n{}", worse.join("\n"));
    Ok(())
}

fn write_down(table: &str) -> Result<()> {
    let load = std::fs::read_to_string("/proc/loadavg")?;
    let names = CLIENTS.map(|client| format!(" {client} alone | with Darter |"));
    let text = format!(
        "# What clients see of a registry that fails\n\n\
         Written by `integration/tests/faults.rs`: each cell is one pull of an image with one layer of 3 MB from a registry of a script, by the \
         client alone and with one Darter between, started before. The fault is in the layer's GET, once or always; {SILENT} never answers anything. \
         The client has nowhere else to go (dockerd tries Docker Hub, which is out of reach there), and is given {} s. containerd is `ctr content fetch`, skopeo is `skopeo copy`. \
         skopeo tries TLS first, also where it is told that there is none: a registry that says nothing to a ClientHello costs it the 10 s that its handshake may take. This one answers 400, \
         as real ones and Darter do; it did not once, and skopeo took those 10 s in most rows without Darter. \
         The test fails where a pull fails with Darter and not without, or ends more than {} s later. It shows as well that 1,000 idle clients, 100 that send a byte at a time and \
         100 that leave at once take nothing from the others. Seconds are of {} processors at a load of {}.\n\n\
         | fault |{}\n|---|{}\n{table}",
        FOR_EVER.as_secs(),
        BUDGET.as_secs(),
        std::thread::available_parallelism()?,
        load.split(' ').next().unwrap_or_default(),
        names.concat(),
        "---|---|".repeat(CLIENTS.len()),
    );
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/faults.md");
    Ok(std::fs::write(path, text)?)
}

/// Clients that say little, or nothing, or leave: the others are served.
#[tokio::test(flavor = "multi_thread")]
async fn idle_slow_and_leaving_clients_take_nothing_from_the_others() -> Result<()> {
    const IDLE: usize = 1000;
    const SLOW: usize = 100;
    const LEAVING: usize = 100;
    let dir = tempfile::tempdir()?;
    let tasks = Tasks::new();
    let blob = Blob::layer(1, LAYER);
    let registry = Registry::good(Shelf::new().blob("app", &blob.bytes), &tasks).await;
    let upstream = format!("docker.io={}", registry.url());
    let darter = start_proxy(dir.path(), "darter", &upstream, None, &[]).await?;
    let address = darter.address("mirror");
    let mut held = Vec::new();
    for client in 0..IDLE + SLOW {
        let mut socket = TcpStream::connect(address).await?;
        if client >= IDLE {
            socket
                .write_all(b"GET /v2/ HTTP/1.1\r\nHost: x\r\nX-Slow: ")
                .await?;
        }
        held.push(socket);
    }
    let path = format!("/v2/app/blobs/{}", blob.digest);
    for _ in 0..LEAVING {
        let mut socket = TcpStream::connect(address).await?;
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\n\r\n");
        socket.write_all(request.as_bytes()).await?;
    }
    for socket in &mut held[IDLE..] {
        socket.write_all(b"x").await?;
    }
    let clock = Clock::start(&tasks);
    let reply = get(&format!("{}{path}", darter.mirror())).await?;
    let took = clock.now();
    ensure!(
        reply.status() == 200 && *reply.body() == blob.bytes,
        "{}",
        reply.status()
    );
    ensure!(took < Duration::from_secs(5), "{took:?}");
    let read: Bytes = get(&format!("{}/v2/", darter.mirror())).await?.into_body();
    ensure!(read == "{}");
    println!("{IDLE} idle, {SLOW} slow, {LEAVING} leaving: 3 MB in {took:?}");
    let reads = registry.asked("GET", "/blobs/").len();
    ensure!(reads <= 3, "{reads} readings");
    drop(held);
    tasks.stop(Duration::from_secs(60)).await;
    Ok(())
}
