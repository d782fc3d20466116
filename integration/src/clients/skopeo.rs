//! The clients of containers/image: skopeo and podman, by registries.conf.

use std::path::{Path, PathBuf};

use anyhow::Result;
use base64::{Engine as _, engine::general_purpose::STANDARD};
use serde_json::json;
use tokio::process::Command;

use super::{Reach, under};
use crate::process::run;

/// A registries.conf whose `docker.io` is blocked but for the mirror at
/// `<mirror>/docker.io`, and a policy that accepts all.
fn configuration(dir: &Path, mirror: &str) -> Result<(PathBuf, PathBuf)> {
    std::fs::create_dir_all(dir)?;
    let host = mirror.trim_start_matches("http://");
    let registries = dir.join("registries.conf");
    std::fs::write(
        &registries,
        format!(
            "unqualified-search-registries = [\"docker.io\"]\nshort-name-mode = \"disabled\"\n\
             [[registry]]\nprefix = \"docker.io\"\nlocation = \"127.0.0.1:1\"\ninsecure = true\n\
             [[registry.mirror]]\nlocation = \"{host}/docker.io\"\ninsecure = true\n"
        ),
    )?;
    let policy = dir.join("policy.json");
    std::fs::write(
        &policy,
        r#"{"default": [{"type": "insecureAcceptAnything"}]}"#,
    )?;
    Ok((registries, policy))
}

/// `skopeo copy docker://<image> dir:<dir>/image`; the folder it wrote.
///
/// # Errors
/// What skopeo said.
pub async fn skopeo_copy(dir: &Path, mirror: &str, image: &str) -> Result<PathBuf> {
    skopeo_copy_as(dir, mirror, image, None).await
}

/// The same with `name:password` for the mirror, as after `skopeo login <mirror>`: it is shown
/// no credentials that were meant for another host.
///
/// # Errors
/// What skopeo said.
pub async fn skopeo_copy_as(
    dir: &Path,
    mirror: &str,
    image: &str,
    as_whom: Option<&str>,
) -> Result<PathBuf> {
    let dir = dir.join("skopeo");
    let (registries, policy) = configuration(&dir, mirror)?;
    let target = dir.join("image");
    let host = mirror.trim_start_matches("http://");
    let auths = as_whom.map(|pair| json!({host: {"auth": STANDARD.encode(pair)}}));
    let authfile = dir.join("auth.json");
    std::fs::write(
        &authfile,
        json!({"auths": auths.unwrap_or(json!({}))}).to_string(),
    )?;
    let mut command = Command::new("skopeo");
    command
        .env("XDG_RUNTIME_DIR", &dir)
        .arg("--registries-conf")
        .arg(registries)
        .arg("--policy")
        .arg(policy)
        .args(["copy", "--all"])
        .arg("--src-authfile")
        .arg(authfile)
        .arg(format!("docker://{image}"))
        .arg(format!("dir:{}", target.display()));
    run(&mut command).await?;
    Ok(target)
}

/// `podman pull` into a store of its own; the image's id.
///
/// # Errors
/// What podman said.
pub async fn podman_pull(dir: &Path, mirror: &str, image: &str) -> Result<String> {
    let dir = dir.join("podman");
    let (registries, policy) = configuration(&dir, mirror)?;
    let mut command = podman(&dir, Command::new("podman"));
    command
        .env("CONTAINERS_REGISTRIES_CONF", registries)
        .args(["pull", "--quiet", "--signature-policy"])
        .arg(policy)
        .arg(image);
    Ok(run(&mut command).await?.trim().to_owned())
}

/// `podman pull` into a store under `dir`, by the `/etc/containers` that lies under `root`;
/// the image's id.
///
/// # Errors
/// What podman said.
pub async fn podman_pull_under(root: &Path, dir: &Path, image: &str) -> Result<String> {
    std::fs::create_dir_all(dir)?;
    let (unshare, arguments) = under(root, &["containers"], Path::new("podman"));
    let mut command = Command::new(unshare);
    command.args(arguments);
    let mut command = podman(dir, command);
    run(command.args(["pull", "--quiet", image]))
        .await
        .map(|id| id.trim().to_owned())
}

/// skopeo, podman or buildah with its files in `dir` and what this way asks for: a
/// registries.conf, a login at the host that is asked, a policy that accepts all.
struct Contained {
    registries: PathBuf,
    policy: PathBuf,
    authfile: PathBuf,
}

impl Contained {
    fn new(dir: &Path, reach: &Reach) -> Result<Self> {
        let nobody = "http://127.0.0.1:1".to_owned();
        let mirror = reach.mirror.as_ref().unwrap_or(&nobody);
        let (registries, policy) = configuration(dir, mirror)?;
        // They show no mirror what was meant for another host.
        let mirror = reach.mirror.as_deref();
        let host = mirror.map_or_else(|| reach.host(), |url| url.trim_start_matches("http://"));
        let authfile = reach.log_in(&dir.join("login"), host)?;
        Ok(Self {
            registries,
            policy,
            authfile,
        })
    }
}

/// `skopeo copy docker://<image> dir:<dir>/image` on this way; the folder it wrote.
///
/// # Errors
/// What skopeo said.
pub async fn skopeo_copy_by(dir: &Path, reach: &Reach) -> Result<PathBuf> {
    let files = Contained::new(dir, reach)?;
    let target = dir.join("image");
    let mut command = Command::new("skopeo");
    command
        .envs(reach.environment())
        .env("XDG_RUNTIME_DIR", dir)
        .arg("--registries-conf")
        .arg(files.registries)
        .arg("--policy")
        .arg(files.policy)
        .args(["copy", "--all", "--src-authfile"])
        .arg(files.authfile)
        .arg(format!("docker://{}", reach.image))
        .arg(format!("dir:{}", target.display()));
    run(&mut command).await?;
    Ok(target)
}

/// `podman pull` on this way, into a store of its own; the image's id.
///
/// # Errors
/// What podman said.
pub async fn podman_pull_by(dir: &Path, reach: &Reach) -> Result<String> {
    let files = Contained::new(dir, reach)?;
    let mut command = podman(dir, Command::new("podman"));
    command
        .envs(reach.environment())
        .env("CONTAINERS_REGISTRIES_CONF", files.registries)
        .args(["pull", "--quiet", "--signature-policy"])
        .arg(files.policy)
        .arg("--authfile")
        .arg(files.authfile)
        .arg(&reach.image);
    Ok(run(&mut command).await?.trim().to_owned())
}

/// `buildah pull` on this way, into a store of its own; the image's id.
///
/// # Errors
/// What buildah said.
pub async fn buildah_pull_by(dir: &Path, reach: &Reach) -> Result<String> {
    let files = Contained::new(dir, reach)?;
    let mut command = buildah(dir, reach, &files);
    command
        .args(["pull", "--quiet", "--signature-policy"])
        .arg(&files.policy)
        .arg("--authfile")
        .arg(&files.authfile)
        .arg(&reach.image);
    Ok(run(&mut command).await?.trim().to_owned())
}

/// `buildah push` of what [`buildah_pull_by`] pulled into the same `dir`, by its id, to where
/// the way's image is.
///
/// # Errors
/// What buildah said.
pub async fn buildah_push_by(dir: &Path, reach: &Reach, id: &str) -> Result<()> {
    let files = Contained::new(dir, reach)?;
    let mut command = buildah(dir, reach, &files);
    command
        .args(["push", "--quiet", "--signature-policy"])
        .arg(&files.policy)
        .arg("--authfile")
        .arg(&files.authfile)
        .arg(id)
        .arg(format!("docker://{}", reach.image));
    run(&mut command).await.map(drop)
}

fn buildah(dir: &Path, reach: &Reach, files: &Contained) -> Command {
    let mut command = Command::new("buildah");
    command
        .envs(reach.environment())
        .env("TMPDIR", dir)
        .env("HOME", dir)
        .arg("--root")
        .arg(dir.join("root"))
        .arg("--runroot")
        .arg(dir.join("run"))
        .args(["--storage-driver", "vfs", "--registries-conf"])
        .arg(&files.registries);
    command
}

/// podman with all its files in `dir`.
fn podman(dir: &Path, mut command: Command) -> Command {
    command
        .env("TMPDIR", dir)
        .env("HOME", dir)
        .arg("--root")
        .arg(dir.join("root"))
        .arg("--runroot")
        .arg(dir.join("run"))
        .args([
            "--storage-driver",
            "vfs",
            "--cgroup-manager",
            "cgroupfs",
            "--events-backend",
            "file",
        ]);
    command
}
