//! `darter ca interception`: after `install` a client that knows nothing of Darter's CA pulls
//! by HTTPS_PROXY; after `remove` the trust store is as it was.

use std::time::Duration;

use anyhow::Result;
use darter_integration::{
    darter::{binary, start_proxy},
    image::{Blob, Flavour, Image},
    process::{eventually, run},
    registry::Registry,
    report::can_use,
};
use tokio::process::Command;

const COMMANDS: &[&str] = &[
    "docker-registry",
    "unshare",
    "curl",
    "update-ca-certificates",
];
/// In a mount namespace, with a trust store of its own that begins with one authority:
/// what curl gets between the two.
const SCRIPT: &str = r#"
    set -e
    mkdir -p "$DIR/ssl/certs" "$DIR/local"
    grep -m 1 '^mozilla' /etc/ca-certificates.conf >"$DIR/one"
    mount --bind "$DIR/one" /etc/ca-certificates.conf
    mount --bind "$DIR/ssl" /etc/ssl
    mount --bind "$DIR/local" /usr/local/share/ca-certificates
    update-ca-certificates --fresh >&2
    state() { (cd "$DIR" && find ssl local | sort && sha256sum ssl/certs/ca-certificates.crt); }
    before=$(state)
    "$DARTER" ca interception show --data "$DATA" | grep 'trusted *no'
    "$DARTER" ca interception install --data "$DATA"
    "$DARTER" ca interception show --data "$DATA" | grep 'trusted *yes'
    HTTPS_PROXY=$MIRROR curl --silent --show-error --fail --output "$DIR/got" "$BLOB"
    "$DARTER" ca interception remove --data "$DATA"
    test "$(state)" = "$before"
    "$DARTER" ca interception remove --all | grep 'did not trust'
    if HTTPS_PROXY=$MIRROR curl --silent --output /dev/null "$BLOB"; then exit 1; fi
"#;

#[tokio::test(flavor = "multi_thread")]
async fn a_client_that_trusts_the_system_trusts_darter() -> Result<()> {
    let test = "a_client_that_trusts_the_system_trusts_darter";
    if !can_use(test, COMMANDS, true) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let layer = Blob::layer(1, 90_000);
    Image::push(
        &registry,
        "library/app",
        "1",
        Flavour::Oci,
        vec![layer.clone()],
    )
    .await?;
    let upstream = format!("docker.io={}", registry.url());
    let proxy = start_proxy(dir, "data", &upstream, None, &[]).await?;
    let data = dir.join("data");
    eventually("the CA", Duration::from_secs(60), || async {
        data.join("ca.crt").is_file().then_some(())
    })
    .await?;
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "sh", "-c", SCRIPT])
        .env("DIR", dir)
        .env("DATA", &data)
        .env("DARTER", binary())
        .env("MIRROR", proxy.mirror())
        .env(
            "BLOB",
            format!("https://docker.io/v2/library/app/blobs/{}", layer.digest),
        );
    run(&mut command).await?;
    assert_eq!(std::fs::read(dir.join("got"))?, layer.bytes);

    let mut export = Command::new(binary());
    export.args(["ca", "interception", "export", "--data"]);
    let pem = run(export.arg(&data)).await?;
    assert_eq!(pem, std::fs::read_to_string(data.join("ca.crt"))?);
    Ok(())
}
