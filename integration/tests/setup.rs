//! `darter setup`: one command, then real clients pull through the mirror with nothing edited
//! by hand; `--undo` leaves every byte as it was.

use std::{collections::BTreeMap, os::unix::fs::MetadataExt as _, path::Path};

use anyhow::{Context as _, Result};
use darter_integration::{
    clients::{Containerd, Dockerd, podman_pull_under},
    darter::{binary, start_proxy},
    image::{Blob, Flavour, Image},
    process::run,
    registry::Registry,
    report::can_use,
};
use tokio::process::Command;

const COMMANDS: &[&str] = &[
    "docker-registry",
    "containerd",
    "dockerd",
    "podman",
    "curl",
    "unshare",
];
/// The fallback is a port where nobody listens: a pull that succeeds came by the mirror.
const HUB: &str = "docker.io=http://127.0.0.1:1";

/// Every path below `root` with its mode and, of a file, its content.
fn tree(root: &Path) -> Result<BTreeMap<String, (u32, Vec<u8>)>> {
    let mut found = BTreeMap::new();
    let mut dirs = vec![root.to_owned()];
    while let Some(dir) = dirs.pop() {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let mode = std::fs::symlink_metadata(&path)?.mode();
            let content = if path.is_dir() {
                dirs.push(path.clone());
                Vec::new()
            } else {
                std::fs::read(&path)?
            };
            found.insert(path.display().to_string(), (mode, content));
        }
    }
    Ok(found)
}

async fn setup(root: &Path, arguments: &[&str]) -> Result<String> {
    let mut command = Command::new(binary());
    command.arg("setup").args(arguments).arg("--root").arg(root);
    run(&mut command).await
}

#[tokio::test(flavor = "multi_thread")]
async fn one_command_a_client_and_back_to_the_byte() -> Result<()> {
    if !can_use("one_command_a_client_and_back_to_the_byte", COMMANDS, true) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let dir = dir.path();
    let registry = Registry::start(dir).await?;
    let layers = vec![Blob::layer(1, 900_000)];
    let image = Image::push(&registry, "library/app", "1", Flavour::Oci, layers).await?;
    let upstream = format!("docker.io={}", registry.url());
    let proxy = start_proxy(dir, "proxy", &upstream, None, &[]).await?;
    let mirror = proxy.mirror();

    let (root, state) = (dir.join("system"), dir.join("containerd"));
    std::fs::create_dir_all(&state)?;
    for (path, content) in [
        (
            "containerd/config.toml",
            Containerd::configuration(&state, Containerd::major().await?),
        ),
        ("docker/daemon.json", "{\"debug\": false}".to_owned()),
        (
            "containers/policy.json",
            "{\"default\": [{\"type\": \"insecureAcceptAnything\"}]}".to_owned(),
        ),
        // podman makes this one itself when it starts.
        ("containers/networks/netavark.lock", String::new()),
    ] {
        let path = root.join("etc").join(path);
        std::fs::create_dir_all(path.parent().context("a file has a folder")?)?;
        std::fs::write(path, content)?;
    }
    let before = tree(&root)?;
    let hub = ["--mirror", &mirror, "--registry", HUB, "--write"];
    let docker = ["--mirror", &mirror, "--write"];
    let lines: [(&str, &[&str]); 3] = [("containerd", &hub), ("docker", &docker), ("podman", &hub)];
    for (client, arguments) in lines {
        let arguments = [&[client], arguments].concat();
        let said = setup(&root, &arguments).await?;
        assert!(said.contains("wrote "), "{said}");
        let once = tree(&root)?;
        let said = setup(&root, &arguments).await?;
        assert!(said.contains("nothing to do"), "{said}");
        assert!(tree(&root)? == once, "{client}, written twice");
    }

    let containerd = Containerd::start_under(&root, &state).await?;
    let name = "docker.io/library/app:1";
    let cri = containerd.cri_pull(name).await.context("CRI")?;
    assert_eq!(cri, image.config.digest.to_string());
    let dockerd = Dockerd::start_with(dir, &root.join("etc/docker/daemon.json")).await?;
    let docker = dockerd.pull("library/app", "1").await?;
    assert_eq!(docker, image.config.digest.to_string());
    let podman = podman_pull_under(&root, &dir.join("podman"), name).await?;
    assert_eq!(podman, image.config.digest.hex());
    let layer = &image.layers[0];
    assert_eq!(
        registry.sent_of(&layer.digest.to_string()),
        layer.bytes.len() as u64,
        "all of them by the mirror"
    );

    for client in ["podman", "docker", "containerd"] {
        setup(&root, &[client, "--undo"]).await?;
    }
    let after = tree(&root)?;
    let paths = |tree: &BTreeMap<String, _>| tree.keys().cloned().collect::<Vec<_>>();
    assert_eq!(paths(&after), paths(&before));
    assert!(after == before, "a mode or a content is another");
    Ok(())
}
