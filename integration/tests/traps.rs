//! What is known to be tried against proxies like this one, on the real binary: the exact
//! replies, and how many connections the targets saw.
//!
//! All of it happens in a network namespace, whose addresses are traps: a metadata service, a
//! host inside, a foreign host, and this host's own ports. That a trap works is shown as well.

use std::{
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darter_integration::{
    darter::{Part, binary, start_proxy},
    guarded::{Body, Server, full},
    http::get,
    image::Blob,
    process::{eventually, run},
    report::can_use,
};
use futures::{StreamExt as _, stream};
use http::{Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::StreamBody;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream, UdpSocket},
    process::Command,
    task::JoinSet,
    time::timeout,
};

/// Where clouds keep a machine's credentials.
const METADATA: &str = "169.254.169.254";
/// A private address; `inside.test` is its name.
const INSIDE: &str = "10.66.0.1";
/// A public address (RFC 5737); `auth.evil.test` is its name.
const FOREIGN: &str = "198.51.100.7";
const PORTS: [u16; 4] = [22, 80, 443, 8080];
/// A reply is there by then.
const PATIENCE: Duration = Duration::from_secs(60);
const GIGABYTE: u64 = 1 << 30;
/// The directory of who runs inside.
const DIR: &str = "DARTER_TEST_INSIDE";

const SCRIPT: &str = "
    mount --bind \"$0/hosts\" /etc/hosts && mount --bind \"$0/resolv.conf\" /etc/resolv.conf &&
    ip link set lo up &&
    for address in 169.254.169.254 10.66.0.1 198.51.100.7; do ip addr add $address/32 dev lo; done &&
    exec \"$@\"";

const UNKNOWN: &str = r#"{"errors":[{"code":"NAME_UNKNOWN","detail":null,"message":"this mirror does not know the registry"}]}"#;
const INVALID: &str =
    r#"{"errors":[{"code":"NAME_INVALID","detail":null,"message":"invalid repository name"}]}"#;
const NOT_THERE: &str = r#"{"errors":[{"code":"UNKNOWN","detail":null,"message":"the source's reply is wrong: it redirects to where this proxy may not go"}]}"#;
/// What the registry itself says.
const OWN_WORDS: &str = r#"{"errors":[{"code":"UNAUTHORIZED","message":"sign in"}]}"#;

#[tokio::test(flavor = "multi_thread")]
async fn what_is_said_is_never_dialled() -> Result<()> {
    let test = "what_is_said_is_never_dialled";
    if !can_use(test, &["unshare", "ip"], true) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let hosts = format!(
        "127.0.0.1 localhost registry.test\n{INSIDE} inside.test\n{FOREIGN} auth.evil.test\n"
    );
    std::fs::write(dir.path().join("hosts"), hosts)?;
    std::fs::write(
        dir.path().join("resolv.conf"),
        "nameserver 127.0.0.1\noptions timeout:1 attempts:1\n",
    )?;
    let mut command = Command::new("unshare");
    command
        .args(["--net", "--mount", "sh", "-c", SCRIPT])
        .arg(dir.path())
        .arg(std::env::current_exe()?)
        .args(["--ignored", "--exact", "inside", "--nocapture"])
        .env(DIR, dir.path())
        .env("DARTER_BIN", binary());
    print!("{}", run(&mut command).await?);
    Ok(())
}

/// What connected to a trap, or asked for a name, and was told nothing.
#[derive(Default)]
struct Traps {
    connections: Arc<AtomicUsize>,
    names: Arc<AtomicUsize>,
    /// Aborted when dropped.
    listening: JoinSet<()>,
}

impl Traps {
    async fn set() -> Result<Self> {
        let mut traps = Self::default();
        for port in PORTS {
            // Every address of the namespace is one.
            let listener = TcpListener::bind(("0.0.0.0", port)).await?;
            let connections = Arc::clone(&traps.connections);
            traps.listening.spawn(async move {
                while listener.accept().await.is_ok() {
                    connections.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        let resolver = UdpSocket::bind("127.0.0.1:53").await?;
        let names = Arc::clone(&traps.names);
        traps.listening.spawn(async move {
            let mut question = [0; 512];
            while resolver.recv_from(&mut question).await.is_ok() {
                names.fetch_add(1, Ordering::SeqCst);
            }
        });
        Ok(traps)
    }

    fn seen(&self) -> (usize, usize) {
        let seen = |of: &AtomicUsize| of.load(Ordering::SeqCst);
        (seen(&self.connections), seen(&self.names))
    }

    /// All of them count.
    async fn work(&self) -> Result<()> {
        let before = self.seen();
        let mut dialled = 0;
        for address in [
            METADATA,
            INSIDE,
            FOREIGN,
            "127.0.0.1",
            "inside.test",
            "auth.evil.test",
        ] {
            for port in PORTS {
                TcpStream::connect((address, port)).await?;
                dialled += 1;
            }
        }
        ensure!(
            tokio::net::lookup_host("nobody.test:443").await.is_err(),
            "nobody.test"
        );
        eventually("the traps count", PATIENCE, || async {
            let seen = self.seen();
            (seen.0 >= before.0 + dialled && seen.1 > before.1).then_some(())
        })
        .await
    }
}

/// Zeros without end; how many were taken is counted.
fn flood(taken: &Arc<AtomicU64>) -> Response<Body> {
    const CHUNK: &[u8] = &[b' '; 64 * 1024];
    let taken = Arc::clone(taken);
    let chunks = stream::iter(0..GIGABYTE / CHUNK.len() as u64).map(move |_| {
        taken.fetch_add(CHUNK.len() as u64, Ordering::SeqCst);
        Ok::<_, std::io::Error>(Frame::data(Bytes::from_static(CHUNK)))
    });
    let body = http_body_util::BodyExt::boxed(StreamBody::new(chunks));
    let reply = Response::builder().header(header::CONTENT_LENGTH, GIGABYTE);
    reply.body(body).expect("a valid reply")
}

/// A registry that sends who asks it elsewhere, by the name of the repository.
fn answer(request: &Request<Bytes>, layer: &Blob, taken: &Arc<AtomicU64>) -> Response<Body> {
    let path = request.uri().path();
    if path == "/token" {
        return flood(taken);
    }
    let rest = path.strip_prefix("/v2/").unwrap_or_default();
    let name = rest.rsplitn(3, '/').nth(2).unwrap_or_default();
    let host = request.headers().get(header::HOST);
    let own = host.and_then(|host| host.to_str().ok()).unwrap_or_default();
    if let Some((_, realm, _)) = realms(own).into_iter().find(|realm| realm.0 == name) {
        return Response::builder()
            .status(StatusCode::UNAUTHORIZED)
            .header(header::WWW_AUTHENTICATE, challenge(&realm))
            .header(header::CONTENT_TYPE, "application/json")
            .body(full(OWN_WORDS))
            .expect("a valid reply");
    }
    let redirects = REDIRECTS.into_iter().chain([NAMED]);
    if let Some((_, to)) = redirects.into_iter().find(|redirect| redirect.0 == name) {
        return Response::builder()
            .status(StatusCode::TEMPORARY_REDIRECT)
            .header(header::LOCATION, to)
            .body(full(""))
            .expect("a valid reply");
    }
    let is_head = request.method() == http::Method::HEAD;
    let bytes = if is_head {
        Bytes::new()
    } else {
        layer.bytes.clone()
    };
    Response::builder()
        .header(header::CONTENT_LENGTH, layer.bytes.len())
        .body(full(bytes))
        .expect("a valid reply")
}

fn challenge(realm: &str) -> String {
    format!("Bearer realm=\"{realm}\",service=\"x\"")
}

/// Repositories with the realm that the registry names for each, and whether it is asked.
fn realms(own: &str) -> [(&'static str, String, bool); 6] {
    [
        (
            "realm/plain",
            "http://auth.evil.test/token".to_owned(),
            false,
        ),
        (
            "realm/tls",
            "https://auth.evil.test/token".to_owned(),
            false,
        ),
        ("realm/metadata", format!("http://{METADATA}/token"), false),
        // Another port of the registry's own host.
        ("realm/port", "http://localhost:22/token".to_owned(), false),
        (
            "realm/user",
            format!("http://{own}@auth.evil.test/token"),
            false,
        ),
        ("flood", format!("http://{own}/token"), true),
    ]
}

const REDIRECTS: [(&str, &str); 5] = [
    (
        "redirect/metadata",
        "http://169.254.169.254/latest/meta-data/iam",
    ),
    ("redirect/plain", "http://10.66.0.1:8080/blob"),
    ("redirect/tls", "https://10.66.0.1/blob"),
    ("redirect/mapped", "https://[::ffff:10.66.0.1]/blob"),
    ("redirect/here", "http://localhost:22/blob"),
];

/// Only its address tells that it is inside.
const NAMED: (&str, &str) = ("redirect/name", "https://inside.test/blob");

/// Runs in the network that the other test makes.
#[ignore = "only in a network of traps"]
#[tokio::test(flavor = "multi_thread")]
async fn inside() -> Result<()> {
    let dir = std::env::var_os(DIR).context("only in a network of traps")?;
    let layer = Blob::layer(1, 300_000);
    let taken = Arc::<AtomicU64>::default();
    let registry = {
        let (layer, taken) = (layer.clone(), Arc::clone(&taken));
        Server::start(None, move |request| answer(&request, &layer, &taken)).await?
    };
    let traps = Traps::set().await?;
    let upstream = format!("docker.io={}", registry.url());
    let node = start_proxy(Path::new(&dir), "node", &upstream, None, &[]).await?;
    let tried = Tried { node, layer };

    tried.names().await?;
    tried.tunnels().await?;
    ensure!(registry.connections() == 0, "so far nobody is to be asked");
    tried.realms(&registry.authority()).await?;
    tried.redirects().await?;
    let (connections, names) = traps.seen();
    ensure!(
        (connections, names) == (0, 0),
        "{connections} connections to traps, {names} names asked for"
    );
    tried.a_name_of_an_inside_host().await?;
    ensure!(traps.seen() == (0, 0), "{:?}", traps.seen());
    tried
        .a_token_of_a_gigabyte(&registry.authority(), &taken)
        .await?;
    tried.tls_on_the_plain_port().await?;
    println!("connections to traps: 0, names asked for: 0");
    traps.work().await
}

struct Tried {
    node: Part,
    layer: Blob,
}

impl Tried {
    fn blob(&self, repository: &str) -> String {
        format!("/v2/{repository}/blobs/{}", self.layer.digest)
    }

    async fn get(&self, path: &str) -> Result<Response<Bytes>> {
        let url = format!("{}{path}", self.node.mirror());
        timeout(PATIENCE, get(&url)).await?
    }

    /// Status and body, whichever order a body's keys have.
    async fn says(&self, path: &str, status: u16, body: &str) -> Result<Response<Bytes>> {
        let reply = self.get(path).await?;
        let said: serde_json::Value = serde_json::from_slice(reply.body())?;
        let wanted: serde_json::Value = serde_json::from_str(body)?;
        println!("{path}: {} {said}", reply.status());
        ensure!(
            reply.status() == status && said == wanted,
            "{path}: {status} {wanted}"
        );
        Ok(reply)
    }

    /// `ns`, and names of repositories.
    async fn names(&self) -> Result<()> {
        let blob = self.blob("library/app");
        for ns in [
            METADATA,
            "127.0.0.1:22",
            "evil@127.0.0.1",
            &format!("evil@{FOREIGN}"),
            &format!("docker.io@{INSIDE}:8080"),
            &format!("http://{METADATA}/"),
            "auth.evil.test",
            "nobody.test",
            "docker.io&ns=127.0.0.1:22",
        ] {
            self.says(&format!("{blob}?ns={ns}"), 404, UNKNOWN).await?;
        }
        for path in [
            "/v2/..%2f..%2fetc/tags/list",
            "/v2/app/..%2fb/tags/list",
            &format!("/v2/..%2f{FOREIGN}/app/tags/list"),
        ] {
            self.says(path, 400, INVALID).await?;
        }
        Ok(())
    }

    /// The port as an HTTP proxy.
    async fn tunnels(&self) -> Result<()> {
        for (line, status, reason) in [
            (format!("CONNECT {METADATA}:443"), 403, "private"),
            (format!("CONNECT {INSIDE}:443"), 403, "private"),
            ("CONNECT inside.test:443".to_owned(), 403, "private"),
            ("CONNECT 127.0.0.1:22".to_owned(), 403, "port"),
            (format!("CONNECT evil@{FOREIGN}:443"), 400, ""),
            (format!("GET http://{METADATA}/latest"), 403, "unlisted"),
            (format!("GET http://{FOREIGN}/v2/"), 403, "unlisted"),
        ] {
            let reply = self
                .raw(format!("{line} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n").as_bytes())
                .await?;
            println!("{line}: {}", reply.replace("\r\n", " | "));
            ensure!(
                reply.starts_with(&format!("HTTP/1.1 {status} ")) && reply.contains(reason),
                "{line}: {status} {reason}"
            );
        }
        Ok(())
    }

    async fn realms(&self, own: &str) -> Result<()> {
        for (repository, realm, is_asked) in realms(own) {
            if is_asked {
                continue;
            }
            let reply = self.says(&self.blob(repository), 401, OWN_WORDS).await?;
            let said = reply.headers().get(header::WWW_AUTHENTICATE);
            ensure!(
                said.is_some_and(|said| said == &challenge(&realm)),
                "{said:?}"
            );
        }
        Ok(())
    }

    async fn redirects(&self) -> Result<()> {
        for (repository, _) in REDIRECTS {
            self.says(&self.blob(repository), 502, NOT_THERE).await?;
        }
        Ok(())
    }

    /// What the name of a public host turns out to be.
    async fn a_name_of_an_inside_host(&self) -> Result<()> {
        let reply = self.get(&self.blob(NAMED.0)).await?;
        let said = String::from_utf8_lossy(reply.body()).into_owned();
        println!("{}: {} {said}", NAMED.0, reply.status());
        ensure!(reply.status() == 502, "{}", reply.status());
        Ok(())
    }

    async fn a_token_of_a_gigabyte(&self, own: &str, taken: &AtomicU64) -> Result<()> {
        let reply = self.says(&self.blob("flood"), 401, OWN_WORDS).await?;
        let said = reply.headers().get(header::WWW_AUTHENTICATE);
        let wanted = challenge(&format!("http://{own}/token"));
        ensure!(said.is_some_and(|said| said == &wanted), "{said:?}");
        let taken = taken.load(Ordering::SeqCst);
        let pid = self.node.process.pid().context("it runs")?;
        let status = std::fs::read_to_string(format!("/proc/{pid}/status"))?;
        let peak = status.lines().find_map(|line| line.strip_prefix("VmHWM:"));
        let peak = peak
            .context("a peak")?
            .trim()
            .trim_end_matches(" kB")
            .parse::<u64>()?;
        println!("a token of 1 GB: {taken} bytes left the token server; peak of memory {peak} KiB");
        ensure!((1..64 << 20).contains(&taken), "{taken} bytes");
        ensure!(peak < 256 << 10, "{peak} KiB");
        Ok(())
    }

    async fn tls_on_the_plain_port(&self) -> Result<()> {
        let hello = [0x16, 3, 1, 0, 200, 1, 0, 0, 196, 3, 3];
        let reply = self.raw(&hello).await?;
        println!("ClientHello: {}", reply.replace("\r\n", " | "));
        ensure!(reply.starts_with("HTTP/1.1 400 "), "{reply}");
        let reply = self.get(&self.blob("library/app")).await?;
        ensure!(reply.body() == &self.layer.bytes, "the mirror goes on");
        Ok(())
    }

    /// All that is answered to these bytes until the connection ends, which it does cleanly.
    async fn raw(&self, bytes: &[u8]) -> Result<String> {
        let address: SocketAddr = self.node.address("mirror").parse()?;
        let mut socket = TcpStream::connect(address).await?;
        socket.write_all(bytes).await?;
        let mut reply = String::new();
        timeout(PATIENCE, socket.read_to_string(&mut reply)).await??;
        Ok(reply)
    }
}
