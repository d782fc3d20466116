//! CRI's PullImage, which is what the kubelet and `crictl pull` send.

use std::{
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::Result;
use hyper_util::rt::TokioIo;
use tokio::net::UnixStream;
use tonic::transport::{Endpoint, Uri};

#[allow(
    missing_docs,
    unreachable_pub,
    clippy::all,
    reason = "generated from proto/cri.proto"
)]
mod api {
    tonic::include_proto!("runtime.v1");
}

/// What containerd answers while its CRI service starts: that takes longer than containerd says it does.
const STARTS: &str = "server is not initialized yet";
/// It should not take so long.
const STARTS_WITHIN: Duration = Duration::from_secs(60);

/// Pulls over the socket of a runtime once it serves CRI, with a name and a password as from a pull secret.
///
/// # Errors
/// The status it answered.
pub(super) async fn pull(
    socket: &Path,
    image: &str,
    as_whom: Option<(&str, &str)>,
) -> Result<String> {
    let socket: PathBuf = socket.to_owned();
    let connect = move |_: Uri| {
        let socket = socket.clone();
        async move { UnixStream::connect(socket).await.map(TokioIo::new) }
    };
    let channel = Endpoint::from_static("http://runtime")
        .connect_with_connector(tower::service_fn(connect))
        .await?;
    let mut client = api::image_service_client::ImageServiceClient::new(channel);
    let request = api::PullImageRequest {
        image: Some(api::ImageSpec {
            image: image.to_owned(),
        }),
        auth: as_whom.map(|(name, password)| api::AuthConfig {
            username: name.to_owned(),
            password: password.to_owned(),
            ..api::AuthConfig::default()
        }),
    };
    let begun = Instant::now();
    let reply = loop {
        match client.pull_image(request.clone()).await {
            Err(status) if status.message().contains(STARTS) && begun.elapsed() < STARTS_WITHIN => {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
            reply => break reply?,
        }
    };
    Ok(reply.into_inner().image_ref)
}
