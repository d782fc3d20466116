//! `darter doctor`: a node that is well, and broken ones, each with what it says.

use std::{
    net::TcpListener,
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use anyhow::{Context as _, Result, ensure};
use darter_integration::{
    darter::{binary, start_proxy},
    image::{Blob, Flavour, Image},
    process::{Process, free_port, output, run},
    registry::Registry,
    report::{can_use, find},
};
use darter_runtime::Tasks;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

/// Nobody listens there.
const NOWHERE: &str = "docker.io=http://127.0.0.1:9";

/// What doctor found: its exit code and its findings.
struct Examined {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Examined {
    /// Asserts a finding: its level, and what its words contain.
    #[track_caller]
    fn says(&self, check: &str, level: &str, words: &str) {
        let fits = |finding: &&Value| finding["check"] == check && finding["level"] == level;
        let found = self.findings.iter().filter(fits);
        let mut texts = found.map(|finding| format!("{}", finding["found"]));
        assert!(
            texts.any(|text| text.contains(words)),
            "{check} {level} `{words}` in {:#?}",
            self.findings
        );
        let code = if level == "wrong" { 1 } else { 0 };
        assert!(self.code >= Some(code), "{:?}", self.code);
    }
}

/// `darter doctor --json` on a node whose data is in `dir/data`, by `command` (a binary, and
/// what stands before it).
async fn examine_by(mut command: Command, dir: &Path, more: &[&str]) -> Result<Examined> {
    std::fs::create_dir_all(dir.join("system"))?;
    command.args(["doctor", "--json", "--root"]);
    command.arg(dir.join("system"));
    if !more.contains(&"--data") {
        command.arg("--data").arg(dir.join("data"));
    }
    if !more.contains(&"--upstream") {
        command.args(["--upstream", NOWHERE]);
    }
    let defaults = [
        ("--listen", "127.0.0.1:0"),
        ("--operations-listen", "127.0.0.1:0"),
    ];
    for (flag, value) in defaults.iter().filter(|(flag, _)| !more.contains(flag)) {
        command.args([flag, value]);
    }
    command.args(["--set", "proxy.peer=127.0.0.1:0"]).args(more);
    let output = output(&mut command).await?;
    let text = String::from_utf8(output.stdout)?;
    let report: Value = serde_json::from_str(&text)
        .with_context(|| format!("{text}\n{}", String::from_utf8_lossy(&output.stderr)))?;
    let code = output.status.code();
    ensure!(report["ok"] == (code == Some(0)), "{code:?} and {report}");
    let findings = report["findings"].as_array().context("findings")?.clone();
    for finding in &findings {
        let bad = ["wrong", "warning"].iter().any(|l| finding["level"] == *l);
        ensure!(
            bad == finding["todo"].is_string(),
            "says what to do: {finding}"
        );
    }
    Ok(Examined { code, findings })
}

async fn examine(dir: &Path, more: &[&str]) -> Result<Examined> {
    examine_by(Command::new(binary()), dir, more).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_that_is_well() -> Result<()> {
    if !can_use("a_node_that_is_well", &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let layers = vec![Blob::layer(1, 90_000)];
    Image::push(&registry, "library/app", "1", Flavour::Oci, layers).await?;
    let upstream = format!("docker.io={}", registry.url());
    let proxy = start_proxy(dir, "data", &upstream, None, &[]).await?;
    let system = dir.join("system");
    std::fs::create_dir_all(system.join("usr/bin"))?;
    std::fs::write(system.join("usr/bin/containerd"), "")?;
    let mut setup = Command::new(binary());
    let mirror = proxy.mirror();
    setup.args(["setup", "containerd", "--write", "--mirror", &mirror]);
    run(setup.arg("--root").arg(&system)).await?;

    let (listen, operations) = (proxy.address("mirror"), proxy.address("operations"));
    let flags = [
        "--upstream",
        &upstream,
        "--listen",
        listen,
        "--operations-listen",
        operations,
        "--image",
        "app:1",
    ];
    let found = examine(dir, &flags).await?;
    assert_eq!(found.code, Some(0), "{:#?}", found.findings);
    found.says("process", "ok", "a proxy runs");
    found.says("ports", "ok", "the mirror");
    found.says("clock", "ok", "as docker.io has it");
    found.says("clients", "ok", "containerd uses the mirror");
    found.says("test pull", "ok", "every digest right");

    // The same node by other flags: as if somebody had changed the file since the start.
    let other = free_port()?.to_string();
    let other = format!("127.0.0.1:{other}");
    let flags = ["--upstream", &upstream, "--listen", &other];
    let found = examine(dir, &flags).await?;
    found.says("ports", "wrong", "is nobody's");
    found.says("process", "warning", "does not answer");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_stands_in_files_is_broken() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let file = dir.join("darter.toml");
    std::fs::write(
        &file,
        "[scheduler]\ndegree = \"many\"\n[proxy]\nnonsense = 1\n",
    )?;
    let found = examine(dir, &["--config", &file.display().to_string()]).await?;
    found.says("configuration", "wrong", "scheduler.degree");
    found.says("configuration", "wrong", "proxy.nonsense");
    found.says("everything else", "skipped", "");

    // A CA key that all may read.
    let found = examine(dir, &[]).await?;
    found.says("trust", "ok", "made at the first start");
    let data = dir.join("data");
    let mut proxy = start_proxy(dir, "data", NOWHERE, None, &[]).await?;
    proxy.process.kill().await?;
    let key = data.join("ca.key");
    std::fs::set_permissions(&key, std::fs::Permissions::from_mode(0o644))?;
    let found = examine(dir, &[]).await?;
    found.says("trust", "wrong", "others can read");
    found.says("process", "wrong", "no proxy runs");
    std::fs::remove_file(&key)?;
    let found = examine(dir, &[]).await?;
    found.says("trust", "wrong", "ca.key is not");

    // Users of the HTTP proxy that all may read.
    let users = dir.join("users");
    std::fs::write(&users, "ann:secret\n")?;
    let set = format!("proxy.intercept.users={:?}", users.display().to_string());
    let found = examine(dir, &["--set", &set]).await?;
    found.says("trust", "wrong", "others can read");
    assert!(!format!("{:?}", found.findings).contains("secret"));

    // A data directory that is none, and one where nobody may write.
    let file = file.display().to_string();
    let found = examine(dir, &["--data", &file]).await?;
    found.says("store", "wrong", "is no directory");
    let found = examine(dir, &["--data", "/proc/darter"]).await?;
    found.says("store", "wrong", "/proc can't be written to");

    // A client that nobody pointed at the mirror.
    let daemon = dir.join("system/usr/bin/containerd");
    std::fs::create_dir_all(daemon.parent().context("a folder")?)?;
    std::fs::write(daemon, "")?;
    let found = examine(dir, &[]).await?;
    found.says("clients", "wrong", "containerd does not use the mirror");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk() -> Result<()> {
    if !can_use("a_full_disk", &["unshare"], true) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let data = dir.path().join("data");
    std::fs::create_dir_all(&data)?;
    let mut command = Command::new("unshare");
    let script =
        "mount -t tmpfs -o size=2m tmpfs \"$0\" && head -c 2m /dev/zero >\"$0/full\"; exec \"$@\"";
    command.args(["--mount", "sh", "-c", script]);
    command.arg(&data).arg(binary());
    let found = examine_by(command, dir.path(), &[]).await?;
    found.says("disk", "wrong", "0 B of 2.0 MiB free");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn who_should_answer_does_not() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let gone = format!("http://127.0.0.1:{}", free_port()?);
    let taken = TcpListener::bind("127.0.0.1:0")?;
    let listen = taken.local_addr()?.to_string();
    let flags = [
        "--scheduler",
        &gone,
        "--manager",
        &gone,
        "--listen",
        &listen,
    ];
    let found = examine(dir, &flags).await?;
    found.says("upstream", "wrong", "can't be asked");
    found.says("scheduler", "wrong", &gone);
    found.says("manager", "wrong", &gone);
    let owner = format!("(process {})", std::process::id());
    found.says("ports", "wrong", &owner);
    let peers = gone.replace("http://", "proxy.peers=[\"") + "\"]";
    let found = examine(dir, &["--set", &peers]).await?;
    found.says("peers", "wrong", "1 of 1 do not answer");

    // The proxy runs, its scheduler has gone.
    let proxy = start_proxy(dir, "data", NOWHERE, Some(&gone), &[]).await?;
    let (listen, operations) = (proxy.address("mirror"), proxy.address("operations"));
    let flags = [
        "--scheduler",
        &gone,
        "--listen",
        listen,
        "--operations-listen",
        operations,
    ];
    let found = examine(dir, &flags).await?;
    found.says("process", "ok", "a proxy runs");
    found.says("neighbours", "wrong", "pulls on its own");
    Ok(())
}

/// A registry whose clock is `behind` ours; how it is listed.
fn registry_of_the_past(behind: Duration, tasks: &Tasks) -> Result<String> {
    let listener = TcpListener::bind("127.0.0.1:0")?;
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let upstream = format!("docker.io=http://{}", listener.local_addr()?);
    tasks.spawn("a registry of the past", async move {
        while let Ok((mut socket, _)) = listener.accept().await {
            let mut head = [0; 4096];
            let date = httpdate::fmt_http_date(SystemTime::now() - behind);
            let reply =
                format!("HTTP/1.1 401 Unauthorized\r\nDate: {date}\r\nContent-Length: 0\r\n\r\n");
            if socket.read(&mut head).await.is_ok() {
                // Who went away meanwhile needs no answer.
                let _ = socket.write_all(reply.as_bytes()).await;
            }
        }
    });
    Ok(upstream)
}

#[tokio::test(flavor = "multi_thread")]
async fn a_clock_that_is_off() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let tasks = Tasks::new();
    let upstream = registry_of_the_past(Duration::from_secs(3600), &tasks)?;
    let found = examine(dir.path(), &["--upstream", &upstream]).await?;
    found.says("upstream", "ok", "answers");
    found.says("clock", "wrong", "ahead of docker.io's");
    tasks.stop(Duration::from_secs(1)).await;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_registry_whose_authority_is_not_trusted() -> Result<()> {
    let test = "a_registry_whose_authority_is_not_trusted";
    if !can_use(test, &["openssl"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let path = |name: &str| dir.join(name).display().to_string();
    let (key, certificate) = (path("key.pem"), path("cert.pem"));
    let mut make = Command::new("openssl");
    make.args(["req", "-x509", "-newkey", "ec", "-nodes", "-days", "2"]);
    make.args(["-pkeyopt", "ec_paramgen_curve:prime256v1"]);
    make.args(["-subj", "/CN=localhost", "-addext"]);
    make.args(["subjectAltName=DNS:localhost,IP:127.0.0.1"]);
    make.args(["-keyout", &key, "-out", &certificate]);
    run(&mut make).await?;
    let port = free_port()?.to_string();
    let arguments = [
        "s_server",
        "-www",
        "-accept",
        &format!("127.0.0.1:{port}"),
        "-key",
        &key,
        "-cert",
        &certificate,
    ];
    let openssl = find("openssl").context("openssl")?;
    let mut server = Process::start("tls", dir, &openssl, arguments, &[])?;
    server
        .wait_for(|log| log.contains("ACCEPT").then_some(()))
        .await?;
    let upstream = format!("docker.io=https://127.0.0.1:{port}");
    let found = examine(dir, &["--upstream", &upstream]).await?;
    found.says("upstream", "wrong", "certificate");
    let todo = found.findings.iter().find(|f| f["check"] == "upstream");
    let todo = todo.context("said")?["todo"].to_string();
    assert!(todo.contains("PEM file of its authority"), "{todo}");
    Ok(())
}
