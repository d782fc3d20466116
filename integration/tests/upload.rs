//! An upload that is larger than any memory passes through the HTTP proxy, whose memory stays
//! flat: 64 MiB in four chunks, half of them over HTTP/2; 2 GiB with `DARTER_TEST_LONG`.

use std::{io::Write as _, path::Path, process::Stdio};

use ::http::Method;
use anyhow::{Context as _, Result, ensure};
use darter_api::{Algorithm, Digest, Hasher};
use darter_integration::{
    darter::{Part, start_proxy},
    http,
    process::output,
    registry::Registry,
    repetitions,
    report::can_use,
};
use tokio::process::Command;

const MIB: u64 = 1 << 20;
const CHUNKS: u64 = 4;
/// What the whole process may take at any time.
const MOST_MEMORY: u64 = 64 * MIB;

/// Writes a file of so many MiB, which are like no others, and hashes it.
fn chunk(path: &Path, number: u64, size: u64, hasher: &mut Hasher) -> Result<()> {
    let mut file = std::fs::File::create(path)?;
    let mut block: Vec<u8> = (0..MIB).map(|at| (at * 31 % 251) as u8).collect();
    for at in 0..size {
        block[..8].copy_from_slice(&(number << 32 | at).to_be_bytes());
        hasher.update(&block);
        file.write_all(&block)?;
    }
    Ok(())
}

/// A request through the proxy by curl: where the upload goes on.
async fn curl(proxy: &Part, ca: &Path, arguments: &[&str], body: Option<&Path>) -> Result<String> {
    let mut curl = Command::new("curl");
    curl.args(["--silent", "--show-error", "--fail", "--max-time", "900"]);
    curl.arg("--proxy").arg(proxy.mirror());
    curl.arg("--cacert").arg(ca).args(arguments);
    curl.args(["--output", "/dev/null", "--write-out", "%header{location}"]);
    curl.env_remove("NO_PROXY").env_remove("no_proxy");
    if let Some(path) = body {
        // Of a length that nobody knows: in HTTP/1.1, in chunks.
        curl.args(["--upload-file", "-"]);
        curl.stdin(Stdio::from(std::fs::File::open(path)?));
    }
    let output = output(&mut curl).await?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{arguments:?}: {said}");
    let location = String::from_utf8(output.stdout)?;
    let at_home = location.starts_with("https://registry.test/") || location.starts_with('/');
    ensure!(at_home, "{arguments:?}: {location}");
    Ok(match location.strip_prefix('/') {
        Some(path) => format!("https://registry.test/{path}"),
        None => location,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn a_large_upload_takes_no_memory() -> Result<()> {
    let test = "a_large_upload_takes_no_memory";
    if !can_use(test, &["docker-registry", "curl"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let registry = Registry::start(dir.path()).await?;
    let upstream = format!("registry.test={}", registry.url());
    let proxy = start_proxy(dir.path(), "alone", &upstream, None, &[]).await?;
    let ca = dir.path().join("alone/ca.crt");
    let before = proxy.peak_memory()?;
    let each = repetitions(16, 512) as u64;

    let begin = "https://registry.test/v2/team/large/blobs/uploads/";
    let begun = ["--request", "POST", "--data-binary", "", begin];
    let mut url = curl(&proxy, &ca, &begun, None).await?;
    let mut hasher = Hasher::new(Algorithm::Sha256);
    let path = dir.path().join("chunk");
    for number in 0..CHUNKS {
        chunk(&path, number, each, &mut hasher)?;
        let version = if number % 2 == 0 {
            "--http1.1"
        } else {
            "--http2"
        };
        let patch = [version, "--request", "PATCH", &url];
        url = curl(&proxy, &ca, &patch, Some(&path)).await?;
    }
    let digest: Digest = hasher.finish();
    let joint = if url.contains('?') { '&' } else { '?' };
    let end = format!("{url}{joint}digest={digest}");
    let put = ["--request", "PUT", "--data-binary", "", &end];
    curl(&proxy, &ca, &put, None).await?;

    let size = CHUNKS * each * MIB;
    let stored = format!("{}/v2/team/large/blobs/{digest}", registry.url());
    let reply = http::send(Method::HEAD, &stored, &[], bytes::Bytes::new()).await?;
    let length = reply.headers().get("content-length").context("a length")?;
    ensure!(
        length.to_str()? == size.to_string(),
        "{length:?}, not {size}"
    );
    let peak = proxy.peak_memory()?;
    println!(
        "{} MiB in {CHUNKS} chunks: {} MiB at most, {} before",
        size / MIB,
        peak / MIB,
        before / MIB
    );
    ensure!(peak <= MOST_MEMORY, "{peak} bytes of memory");
    Ok(())
}
