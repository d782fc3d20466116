//! Private images of a real registry behind TLS and tokens: who may read stays who may read,
//! whatever this host has already.

use std::{
    collections::BTreeMap,
    path::Path,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use darter_integration::{
    darter::Part,
    guarded::{Authority, Cut, Objects, Redirecting, Tokens, Tunnel, ask, basic, bearer},
    http::{get, send},
    image::{Blob, Flavour, Image},
    process::eventually,
    registry::{Guard, Registry, Setup, plant},
    repetitions,
    report::can_use,
};
use hyper::Method;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

/// For a confirmed right; a token of the server's lives as long.
const ALLOWED: Duration = Duration::from_secs(2);
/// Until something is refused at the latest: the right that is remembered, the token that is
/// taken till it expires, and this machine.
const TOO_LONG: Duration = Duration::from_secs(8);
const ALICE: Option<(&str, &str)> = Some(("alice", "s3cret-of-alice"));
const BOB: Option<(&str, &str)> = Some(("bob", "s3cret-of-bob"));

/// The flags of an upstream `corp.test` at `url`, whose authority is trusted.
fn upstream(url: &str, authority: &Authority, more: &str) -> String {
    let ca = authority.file().display().to_string();
    format!("proxy.upstreams=[{{name = \"corp.test\", url = \"{url}\", ca = \"{ca}\"{more}}}]")
}

/// A node that is a cluster of its own: its peer port speaks mutual TLS.
async fn node(dir: &Path, upstream: &str, allowed: Duration) -> Result<Part> {
    node_with(dir, upstream, allowed, &["log.level=\"trace\""]).await
}

/// With further settings.
async fn node_with(dir: &Path, upstream: &str, allowed: Duration, more: &[&str]) -> Result<Part> {
    let allowed = format!("proxy.rights.allowed_for=\"{}s\"", allowed.as_secs());
    let data = dir.join("node").display().to_string();
    let mut arguments = vec!["standalone", "--data", &data, "--set", upstream];
    for setting in [
        "proxy.listen=\"127.0.0.1:0\"",
        "proxy.peer=\"127.0.0.1:0\"",
        "scheduler.listen=\"127.0.0.1:0\"",
        "manager.listen=\"127.0.0.1:0\"",
        "manager.grpc=\"127.0.0.1:0\"",
        "operations.listen=\"127.0.0.1:0\"",
        &allowed,
        "proxy.mirror.tag_ttl=\"1s\"",
    ] {
        arguments.extend(["--set", setting]);
    }
    for setting in more {
        arguments.extend(["--set", setting]);
    }
    Part::start("node", dir, &arguments).await
}

fn no_secret_in(part: &Part, secrets: &[String]) -> Result<()> {
    let at_work = part.process.line_with(&["TRACE"]).is_some();
    ensure!(
        at_work && part.process.line_with(&["answered"]).is_some(),
        "the log is at work"
    );
    let secrets: Vec<&String> = secrets.iter().filter(|secret| !secret.is_empty()).collect();
    match part.process.line_with(&secrets) {
        Some(line) => anyhow::bail!("a secret in {line}"),
        None => Ok(()),
    }
}

/// What two replies must have in common to be the same refusal.
fn said(reply: &hyper::Response<Bytes>) -> (u16, String, String) {
    let challenge = reply.headers().get("www-authenticate");
    let challenge = challenge
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let body = String::from_utf8_lossy(reply.body()).trim().to_owned();
    (reply.status().as_u16(), challenge.to_owned(), body)
}

struct Company {
    _dir: tempfile::TempDir,
    authority: Authority,
    tokens: Tokens,
    registry: Registry,
    node: Part,
    private: Image,
    public: Image,
}

impl Company {
    /// `team/app` is Alice's, `library/app` everybody's and shares a layer with it, and Bob has
    /// pushed `thief/app`, whose manifest names Alice's layer.
    async fn found(life: Duration) -> Result<Self> {
        Self::found_with(life, "trace").await
    }

    async fn found_with(life: Duration, level: &str) -> Result<Self> {
        let dir = tempfile::tempdir()?;
        let root = dir.path();
        let authority = Authority::new(&root.join("authority"))?;
        let tokens = Tokens::start(&authority, life).await?;
        for (name, password) in [ALICE, BOB].into_iter().flatten() {
            tokens.user(name, password);
        }
        tokens.allow(Some("alice"), "team/app");
        tokens.allow(None, "library/app");
        tokens.allow(None, "thief/app");
        let identity = authority.issue("registry")?;
        let guarded = Setup {
            name: "guarded",
            guard: Guard::Tokens(&tokens),
            identity: Some(&identity),
            clients: None,
        };
        let back_door = Registry::start(root).await?;
        let shared = Blob::layer(1, 700_000);
        let layers = vec![shared.clone(), Blob::layer(2, 3_000_000)];
        let private = Image::push(&back_door, "team/app", "1", Flavour::Oci, layers).await?;
        let public =
            Image::push(&back_door, "library/app", "1", Flavour::Oci, vec![shared]).await?;
        plant(root, "thief/app", "1", &private.manifest_bytes)?;
        let registry = Registry::start_as(root, guarded).await?;
        let realms = format!(", realms = [\"{}\"]", tokens.authority());
        let upstream = upstream(&registry.url(), &authority, &realms);
        let level = format!("log.level=\"{level}\"");
        let node = node_with(root, &upstream, life, &[&level]).await?;
        Ok(Self {
            _dir: dir,
            authority,
            tokens,
            registry,
            node,
            private,
            public,
        })
    }

    /// Manifest by tag and by digest, then config and layers, below a repository's name.
    fn paths(&self, repository: &str, image: &Image) -> Vec<String> {
        let manifests = ["1".to_owned(), image.manifest.to_string()];
        let manifests =
            manifests.map(|reference| format!("/v2/{repository}/manifests/{reference}"));
        let blobs = image.layers.iter().chain([&image.config]);
        let blobs = blobs.map(|blob| format!("/v2/{repository}/blobs/{}", blob.digest));
        manifests.into_iter().chain(blobs).collect()
    }

    async fn bearer(&self, user: Option<(&str, &str)>, repository: &str) -> Result<String> {
        bearer(&self.authority, &self.tokens, user, repository).await
    }

    /// What the mirror says, and what the registry itself does.
    async fn both(
        &self,
        method: &Method,
        path: &str,
        authorization: Option<&str>,
    ) -> Result<(hyper::Response<Bytes>, hyper::Response<Bytes>)> {
        let mirror = format!("{}{path}?ns=corp.test", self.node.mirror());
        let own = format!("{}{path}", self.registry.url());
        let ask = |url| {
            let method = method.clone();
            async move { ask(&self.authority, method, url, authorization).await }
        };
        Ok((ask(&mirror).await?, ask(&own).await?))
    }

    /// Asks until the mirror refuses, and says how long that took.
    async fn until_refused(&self, path: &str, authorization: Option<&str>) -> Result<Duration> {
        let began = Instant::now();
        loop {
            let (mirror, _) = self.both(&Method::GET, path, authorization).await?;
            if mirror.status() == 401 {
                return Ok(began.elapsed());
            }
            ensure!(mirror.status() == 200, "{path}: {}", mirror.status());
            ensure!(began.elapsed() < TOO_LONG, "{path} is still given");
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_private_image_stays_private_in_a_warm_cache() -> Result<()> {
    if !can_use(
        "a_private_image_stays_private_in_a_warm_cache",
        &["docker-registry"],
        false,
    ) {
        return Ok(());
    }
    let company = Company::found(Duration::from_secs(120)).await?;
    let private = company.paths("team/app", &company.private);
    let alice = company.bearer(ALICE, "team/app").await?;
    for path in &private {
        let (mirror, own) = company.both(&Method::GET, path, Some(&alice)).await?;
        ensure!(
            mirror.status() == 200 && mirror.body() == own.body(),
            "{path}"
        );
    }
    for path in company.paths("library/app", &company.public) {
        let (mirror, own) = company.both(&Method::GET, &path, None).await?;
        let said = (mirror.status().as_u16(), own.status().as_u16());
        ensure!(
            said == (200, 401),
            "{path}: {said:?}: the mirror has a token of its own"
        );
    }

    others_are_refused(&company, &private).await?;
    other_names_lead_nowhere(&company).await?;
    the_peer_port_gives_nothing(&company).await?;

    what_is_remembered_costs_nothing(&company).await?;
    let refused = "darter_proxy_rights_answers_total";
    let refused = company.node.metric(refused, "answer=\"refused\"").await?;
    ensure!(refused > 0.0, "refusals are counted");
    for answer in ["\"own\"", "\"refused\""] {
        let said = company.node.process.log().lines().any(|line| {
            let parts = ["right to read", "team/app", answer];
            parts.iter().all(|part| line.contains(part))
        });
        ensure!(said, "{answer} is in the log");
    }
    no_secret_in(&company.node, &company.tokens.secrets())
}

/// Bob, nobody, and a forger get the registry's own words, and no byte of Alice's.
async fn others_are_refused(company: &Company, paths: &[String]) -> Result<()> {
    let bob = company.bearer(BOB, "team/app").await?;
    let nobody = company.bearer(None, "team/app").await?;
    let sent = company.registry.sent();
    let callers = [
        None,
        Some(bob.as_str()),
        Some(&nobody),
        Some("Bearer forged"),
    ];
    for path in paths {
        for method in [Method::GET, Method::HEAD] {
            for caller in callers {
                let (mirror, own) = company.both(&method, path, caller).await?;
                ensure!(own.status() == 401, "{method} {path}: {}", own.status());
                let (mirror, own) = (said(&mirror), said(&own));
                ensure!(mirror == own, "{method} {path}:\n{mirror:?}\n{own:?}");
            }
        }
    }
    // The mirror read nothing for them, and the registry gave nothing of Alice's to either.
    let digests = company
        .private
        .layers
        .iter()
        .map(|layer| layer.digest.to_string());
    for digest in digests {
        let of = |sent: &BTreeMap<String, u64>| {
            sent.get(&format!("/v2/team/app/blobs/{digest}")).copied()
        };
        let (before, after) = (of(&sent), of(&company.registry.sent()));
        // Refusals have bodies.
        let more = after.unwrap_or(0) - before.unwrap_or(0);
        ensure!(more < 100_000, "{digest}: {more} bytes for others");
    }
    Ok(())
}

/// Alice's layer by the name of a repository that Bob may read.
async fn other_names_lead_nowhere(company: &Company) -> Result<()> {
    let [shared, own] = &company.private.layers[..] else {
        anyhow::bail!("two layers");
    };
    let blob = |repository: &str, blob: &Blob| format!("/v2/{repository}/blobs/{}", blob.digest);
    // What is public somewhere is so only there.
    let (there, _) = company
        .both(&Method::GET, &blob("library/app", shared), None)
        .await?;
    ensure!(there.status() == 200, "{}", there.status());
    let (here, _) = company
        .both(&Method::GET, &blob("team/app", shared), None)
        .await?;
    ensure!(here.status() == 401, "{}", here.status());
    // Bob's manifest is public, and what it names is not there.
    for path in ["/v2/thief/app/manifests/1", "/v2/thief/app/manifests/"] {
        let digest = path
            .ends_with('/')
            .then(|| company.private.manifest.to_string());
        let path = format!("{path}{}", digest.unwrap_or_default());
        let (mirror, _) = company.both(&Method::GET, &path, None).await?;
        ensure!(mirror.status() == 200, "{path}: {}", mirror.status());
    }
    let bob = company.bearer(BOB, "thief/app").await?;
    for repository in ["thief/app", "library/app"] {
        for caller in [None, Some(bob.as_str())] {
            let path = blob(repository, own);
            let (mirror, _) = company.both(&Method::GET, &path, caller).await?;
            let code = String::from_utf8_lossy(mirror.body()).into_owned();
            // A token for one repository is no good in another: the registry says so.
            let status = mirror.status().as_u16();
            ensure!(matches!(status, 401 | 404), "{path} {status}: {code}");
            ensure!(mirror.body().len() < 1000, "{path}: {status}");
        }
        let (mirror, _) = company
            .both(&Method::GET, &blob(repository, own), None)
            .await?;
        ensure!(mirror.status() == 404, "{repository}: {}", mirror.status());
    }
    Ok(())
}

/// The right of a warm private blob, asked often.
async fn what_is_remembered_costs_nothing(company: &Company) -> Result<()> {
    let path = format!("/v2/team/app/blobs/{}", company.private.config.digest);
    let url = format!("{}{path}?ns=corp.test", company.node.mirror());
    let alice = company.bearer(ALICE, "team/app").await?;
    for _ in 0..200 {
        let headers = [("authorization", alice.as_str())];
        let reply = send(Method::GET, &url, &headers, Bytes::new()).await?;
        ensure!(reply.status() == 200, "{}", reply.status());
    }
    let all = remembered_within(company, "+Inf").await?;
    ensure!(all >= 199.0, "{all} answers from memory");
    let most = remembered_within(company, "0.0003").await?;
    ensure!(
        most >= all / 2.0,
        "half of them take no 0.3 ms: {most} of {all}"
    );
    Ok(())
}

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
            format!("GET {path} HTTP/1.1\r\nHost: mirror.test\r\nAuthorization: {shown}\r\n\r\n");
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
    let mut medians = Vec::new();
    for percent in [50, 99] {
        let [public, private] = took.each_mut().map(|took| {
            took.sort_unstable();
            took[took.len() * percent / 100]
        });
        println!(
            "first byte of a warm blob, {rounds} times each, p{percent}: {public:?} public, {private:?} private, {:?} more",
            private.saturating_sub(public)
        );
        medians.push(private.saturating_sub(public));
    }
    let all = remembered_within(&company, "+Inf").await?;
    // What is everybody's is told without being asked for, once it was shown.
    ensure!(all >= rounds as f64 - 1.0, "{all} answers from memory");
    for bound in ["0.00003", "0.0001", "0.0003", "0.001"] {
        let within = remembered_within(&company, bound).await?;
        println!("the check itself within {bound} s: {within} of {all}");
    }
    ensure!(medians[0] <= MOST, "{:?} more", medians[0]);
    Ok(())
}

/// Answers from memory that took no longer than `bound` seconds.
async fn remembered_within(company: &Company, bound: &str) -> Result<f64> {
    let labels = format!("le=\"{bound}\",answer=\"remembered\"");
    let name = "darter_proxy_rights_seconds_bucket";
    company.node.metric(name, &labels).await
}

/// The port that other members read from.
async fn the_peer_port_gives_nothing(company: &Company) -> Result<()> {
    let layer = &company.private.layers[1];
    let (port, size) = (company.node.address("peer"), layer.bytes.len());
    let path = format!("/v1/tasks/{}/pieces/0?size={size}", layer.digest);
    ensure!(
        get(&format!("http://{port}{path}")).await.is_err(),
        "in plain text"
    );
    let url = format!("https://{port}{path}");
    let by_tls = ask(&company.authority, Method::GET, &url, None);
    ensure!(by_tls.await.is_err(), "without a certificate");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_taken_away_is_gone_in_the_configured_time() -> Result<()> {
    let test = "what_is_taken_away_is_gone_in_the_configured_time";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let company = Company::found(ALLOWED).await?;
    let private = company.paths("team/app", &company.private);
    let alice = company.bearer(ALICE, "team/app").await?;
    for path in &private {
        let (mirror, _) = company.both(&Method::GET, path, Some(&alice)).await?;
        ensure!(mirror.status() == 200, "{path}: {}", mirror.status());
    }
    company.tokens.forbid(Some("alice"), "team/app");
    let later = company.bearer(ALICE, "team/app").await?;
    for path in &private {
        let (mirror, _) = company.both(&Method::GET, path, Some(&later)).await?;
        ensure!(mirror.status() == 401, "{path}: {}", mirror.status());
        let took = company.until_refused(path, Some(&alice)).await?;
        println!("revoked: {path} was refused after {took:?}");
    }

    let public = company.paths("library/app", &company.public);
    for path in &public {
        let (mirror, _) = company.both(&Method::GET, path, None).await?;
        ensure!(mirror.status() == 200, "{path}: {}", mirror.status());
    }
    company.tokens.forbid(None, "library/app");
    for path in &public {
        let took = company.until_refused(path, None).await?;
        println!("made private: {path} was refused after {took:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn basic_credentials_are_the_registrys_to_judge() -> Result<()> {
    if !can_use(
        "basic_credentials_are_the_registrys_to_judge",
        &["docker-registry"],
        false,
    ) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let authority = Authority::new(&root.join("authority"))?;
    let file = root.join("htpasswd");
    let (name, password) = ALICE.context("a user")?;
    let line = format!("{name}:{}\n", bcrypt::hash(password, 4)?);
    std::fs::write(&file, &line)?;
    let back_door = Registry::start(root).await?;
    let layers = vec![Blob::layer(1, 500_000)];
    let image = Image::push(&back_door, "team/app", "1", Flavour::Schema2, layers).await?;
    let identity = authority.issue("registry")?;
    let guarded = Setup {
        name: "guarded",
        guard: Guard::Htpasswd(&file),
        identity: Some(&identity),
        clients: None,
    };
    let registry = Registry::start_as(root, guarded).await?;
    let node = node(root, &upstream(&registry.url(), &authority, ""), ALLOWED).await?;
    let alice = basic(name, password);
    let paths = [
        "/v2/team/app/manifests/1".to_owned(),
        format!("/v2/team/app/blobs/{}", image.layers[0].digest),
    ];
    for path in &paths {
        let mirror = format!("{}{path}?ns=corp.test", node.mirror());
        let reply = ask(&authority, Method::GET, &mirror, Some(&alice)).await?;
        ensure!(reply.status() == 200, "{path}: {}", reply.status());
        for other in [
            None,
            Some(basic("alice", "guess")),
            Some(basic("bob", "guess")),
        ] {
            let reply = ask(&authority, Method::GET, &mirror, other.as_deref()).await?;
            let (status, challenge, body) = said(&reply);
            ensure!(
                status == 401 && challenge == "Basic realm=\"guarded\"",
                "{status} {challenge}"
            );
            ensure!(body.contains("UNAUTHORIZED"), "{body}");
        }
    }
    // The registry reads its file anew when it has changed.
    std::fs::write(&file, line.replace("alice:", "eve:"))?;
    let began = Instant::now();
    let mirror = format!("{}{}?ns=corp.test", node.mirror(), paths[1]);
    while ask(&authority, Method::GET, &mirror, Some(&alice))
        .await?
        .status()
        != 401
    {
        ensure!(began.elapsed() < TOO_LONG, "she is still let in");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let secrets = [password.to_owned(), alice.replace("Basic ", "")];
    no_secret_in(&node, &secrets)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_preheat_signs_in_with_what_the_manager_keeps() -> Result<()> {
    let test = "a_preheat_signs_in_with_what_the_manager_keeps";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let authority = Authority::new(&root.join("authority"))?;
    let (users, kept) = (root.join("htpasswd"), root.join("password"));
    let (name, password) = ALICE.context("a user")?;
    std::fs::write(&users, format!("{name}:{}\n", bcrypt::hash(password, 4)?))?;
    std::fs::write(&kept, "guess\n")?;
    let back_door = Registry::start(root).await?;
    let layers = vec![Blob::layer(1, 500_000)];
    Image::push(&back_door, "team/app", "1", Flavour::Oci, layers).await?;
    let identity = authority.issue("registry")?;
    let guarded = Setup {
        name: "guarded",
        guard: Guard::Htpasswd(&users),
        identity: Some(&identity),
        clients: None,
    };
    let registry = Registry::start_as(root, guarded).await?;
    let file = kept.display();
    let credential = format!(
        "manager.credentials=[{{name = \"corp\", registry = \"corp.test\", username = \"{name}\", password_file = \"{file}\"}}]"
    );
    let more = [
        credential.as_str(),
        "scheduler.preheat_settle=\"0s\"",
        "log.level=\"trace\"",
    ];
    let upstream = upstream(&registry.url(), &authority, "");
    let node = node_with(root, &upstream, ALLOWED, &more).await?;

    let rest = format!("http://{}/api/v1", node.address("manager"));
    let post = async |image: &str| {
        let wish = json!({"image": image, "credential": "corp"}).to_string();
        let headers = [("content-type", "application/json")];
        send(Method::POST, &format!("{rest}/jobs"), &headers, wish.into()).await
    };
    let ended = async |reply: hyper::Response<Bytes>| {
        ensure!(reply.status() == 201, "{reply:?}");
        let posted: Value = serde_json::from_slice(reply.body())?;
        let url = format!("{rest}/jobs/{}", posted["id"]);
        eventually("the job's end", 4 * TOO_LONG, || async {
            let job = get(&url).await.ok()?;
            let job: Value = serde_json::from_slice(job.body()).ok()?;
            let goes_on = job["state"] == "PENDING" || job["state"] == "RUNNING";
            (!goes_on).then_some(job)
        })
        .await
    };
    let job = ended(post("corp.test/team/app:1").await?).await?;
    ensure!(job["state"] == "FAILURE", "{job}");
    // The file is read when it is needed.
    std::fs::write(&kept, format!("{password}\n"))?;
    let job = ended(post("corp.test/team/app:1").await?).await?;
    ensure!(job["state"] == "SUCCESS", "{job}");
    ensure!(job["credential"] == "corp", "{job}");
    let elsewhere = post("other.test/team/app:1").await?;
    ensure!(elsewhere.status() == 400, "{elsewhere:?}");
    let kept = get(&format!("{rest}/credentials")).await?;
    let kept: Value = serde_json::from_slice(kept.body())?;
    let shown = json!([{"name": "corp", "registry": "corp.test", "username": name}]);
    assert_eq!(kept, shown);
    let pair = basic(name, password).replace("Basic ", "");
    let secrets = [password.to_owned(), pair];
    ensure!(
        !secrets
            .iter()
            .any(|secret| job.to_string().contains(secret))
    );
    no_secret_in(&node, &secrets)
}

#[tokio::test(flavor = "multi_thread")]
async fn signed_urls_and_tokens_that_expire_in_mid_blob_are_nobodys_business() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let authority = Authority::new(&root.join("authority"))?;
    let tokens = Tokens::start(&authority, ALLOWED).await?;
    tokens.allow(None, "library/app");
    let objects = Objects::start(&authority).await?;
    let registry = Redirecting::start(&authority, &objects, &tokens, ALLOWED).await?;
    let layers = vec![Blob::layer(1, 6_000_000)];
    let image = Image::of("library/app", Flavour::Oci, layers)?;
    registry.put(&image, "1");
    let more = format!(
        ", realms = [\"{}\"], redirects = [\"{}\"]",
        tokens.authority(),
        objects.authority()
    );
    let node = node(root, &upstream(&registry.url(), &authority, &more), ALLOWED).await?;
    // By the time the body breaks off, URL and token have both expired.
    objects.cut(Cut {
        after: 2_500_000,
        pause: ALLOWED + Duration::from_secs(1),
    });
    let layer = &image.layers[0];
    let url = format!(
        "{}/v2/library/app/blobs/{}?ns=corp.test",
        node.mirror(),
        layer.digest
    );
    let reply = get(&url).await?;
    ensure!(
        reply.status() == 200 && reply.body() == &layer.bytes,
        "{}",
        reply.status()
    );
    let seen = objects.seen();
    ensure!(seen.len() == 2 && seen[0].0 != seen[1].0, "{seen:?}");
    ensure!(seen.iter().all(|(_, status)| *status < 300), "{seen:?}");
    ensure!(tokens.issued(None) >= 2, "{} tokens", tokens.issued(None));
    ensure!(objects.authorizations() == 0, "the store was shown a token");
    let mut secrets = tokens.secrets();
    secrets.extend(seen.into_iter().map(|(signature, _)| signature));
    ensure!(secrets.len() >= 4, "{}", secrets.len());
    no_secret_in(&node, &secrets)
}

#[tokio::test(flavor = "multi_thread")]
async fn client_certificates_and_an_http_proxy_on_the_way() -> Result<()> {
    let test = "client_certificates_and_an_http_proxy_on_the_way";
    if !can_use(test, &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let authority = Authority::new(&root.join("authority"))?;
    let (identity, own) = (authority.issue("registry")?, authority.issue("own")?);
    let back_door = Registry::start(root).await?;
    let layers = vec![Blob::layer(1, 2_000_000)];
    let image = Image::push(&back_door, "library/app", "1", Flavour::Oci, layers).await?;
    let clients = authority.file();
    let guarded = Setup {
        name: "guarded",
        guard: Guard::Nobody,
        identity: Some(&identity),
        clients: Some(&clients),
    };
    let registry = Registry::start_as(root, guarded).await?;
    let tunnel = Tunnel::start("node", "s3cret-of-the-tunnel", None).await?;
    // The same over TLS, and one whose certificate nobody trusts.
    let mut over_tls = Vec::new();
    let stranger = Authority::new(&root.join("stranger"))?;
    for signs in [&authority, &stranger] {
        let tls = signs.server(&signs.issue("tunnel")?, false)?;
        over_tls.push(Tunnel::start("node", "s3cret-of-the-tunnel", Some(tls)).await?);
    }
    let certificate = format!(
        ", client_certificate = \"{}\", client_key = \"{}\"",
        own.certificate.display(),
        own.key.display()
    );
    let proxy = |pair: &str| format!(", proxy = \"http://{pair}@{}\"", tunnel.address());
    let right = proxy("node:s3cret-of-the-tunnel");
    let plain = tunnel.address();
    let [trusted, untrusted] = &over_tls[..] else {
        anyhow::bail!("two of them");
    };
    let by_tls = |tunnel: &Tunnel| {
        let right = right.replace("http://", "https://");
        right.replace(&plain, &tunnel.address())
    };
    let path = format!("/v2/library/app/blobs/{}", image.layers[0].digest);
    for (at, (more, wanted)) in [
        (String::new(), 502),
        (right.clone(), 502),
        (format!("{certificate}{}", proxy("node:guess")), 502),
        (certificate.clone(), 200),
        (format!("{certificate}{right}"), 200),
        (format!("{certificate}{}", by_tls(trusted)), 200),
        (format!("{certificate}{}", by_tls(untrusted)), 502),
    ]
    .into_iter()
    .enumerate()
    {
        let root = root.join(at.to_string());
        std::fs::create_dir_all(&root)?;
        let node = node(
            &root,
            &upstream(&registry.url(), &authority, &more),
            ALLOWED,
        )
        .await?;
        let reply = get(&format!("{}{path}?ns=corp.test", node.mirror())).await?;
        ensure!(reply.status() == wanted, "{at}: {}", reply.status());
        if wanted == 200 {
            ensure!(reply.body() == &image.layers[0].bytes, "other bytes");
        }
        no_secret_in(&node, &["s3cret-of-the-tunnel".to_owned()])?;
    }
    let (opened, refused) = tunnel.ended();
    ensure!(opened >= 2 && refused >= 1, "{opened} {refused}");
    // Nothing was asked of the one that shows a stranger's certificate.
    let opened = over_tls.iter().map(|tunnel| tunnel.ended().0);
    let opened: Vec<usize> = opened.collect();
    ensure!(opened[0] >= 1 && opened[1] == 0, "{opened:?}");
    Ok(())
}
