//! Pulls as people do them: each client with a root, state and socket of its own.

mod containerd;
mod cri;
mod dockerd;
mod newest;
mod reach;
mod skopeo;
mod stargz;

pub use containerd::Containerd;
pub use dockerd::Dockerd;
pub use newest::{NewContainerd, through, through_by};
pub use reach::Reach;
pub use skopeo::{
    buildah_pull_by, buildah_push_by, podman_pull, podman_pull_by, podman_pull_under, skopeo_copy,
    skopeo_copy_as, skopeo_copy_by,
};
pub use stargz::Stargz;

use std::{
    ffi::OsString,
    path::{Path, PathBuf},
};

/// The command that runs `program` where `/etc/<name>` is what lies under `root`, for each
/// of `names`: in a mount namespace of its own, so that software which is told no other
/// place finds the files of a test.
fn under(root: &Path, names: &[&str], program: &Path) -> (PathBuf, Vec<OsString>) {
    let mut script = String::new();
    for name in names {
        script += &format!("mount --bind \"$0/etc/{name}\" /etc/{name} && ");
    }
    script += "exec \"$@\"";
    let mut arguments: Vec<OsString> = ["--mount", "sh", "-c"].map(OsString::from).into();
    arguments.extend([script.into(), root.into(), program.into()]);
    (PathBuf::from("unshare"), arguments)
}
