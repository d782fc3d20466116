//! Pulls as people do them: each client with a root, state and socket of its own.

mod containerd;
mod dockerd;
mod skopeo;

pub use containerd::Containerd;
pub use dockerd::Dockerd;
pub use skopeo::{podman_pull, skopeo_copy};
