//! Parents that send little at a time, or nothing more: a socket that wakes its reader for whole
//! groups only must tell them apart.

use std::net::SocketAddr;

use tokio::{
    io::AsyncReadExt as _,
    net::{TcpListener, TcpStream},
};

use super::*;

/// Passes a parent's bytes on: `early` at once, then 1 KiB at a time as long as `slowly` says.
async fn relay(
    tasks: &Tasks,
    to: SocketAddr,
    early: u64,
    mut slowly: impl FnMut() -> Option<Duration> + Send + 'static,
) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tasks.spawn("relay", async move {
        let (child, _) = listener.accept().await.unwrap();
        let parent = TcpStream::connect(to).await.unwrap();
        let (mut asked, mut answers) = child.into_split();
        let (mut reply, mut asks) = parent.into_split();
        let ask = tokio::io::copy(&mut asked, &mut asks);
        let answer = async {
            tokio::io::copy(&mut (&mut reply).take(early), &mut answers).await?;
            while let Some(pause) = slowly() {
                tokio::time::sleep(pause).await;
                tokio::io::copy(&mut (&mut reply).take(1024), &mut answers).await?;
            }
            tokio::io::copy(&mut reply, &mut answers).await
        };
        let _ = tokio::join!(ask, answer);
    });
    address
}

#[tokio::test]
async fn a_parent_that_sends_little_at_a_time_does_not_stall() {
    let parent = parent(700_000, None).await;
    let mut left = 60;
    let take = move || {
        left -= 1;
        (left > 0).then_some(Duration::from_millis(100))
    };
    // The first group takes six seconds.
    let wanted = Wanted {
        address: relay(&parent.tasks, parent.wanted.address, 2048, take).await,
        stall_after: Duration::from_secs(4),
        ..parent.wanted
    };
    let mut sink = Collected::default();
    let fetched = client().fetch(&wanted, |_| true, &mut sink).await.unwrap();
    assert_eq!(fetched.bytes, wanted.lengths.piece_bytes(wanted.index));
}

#[tokio::test]
async fn a_parent_that_stops_in_a_group_stalls() {
    let parent = parent(700_000, None).await;
    let forever = || Some(Duration::from_secs(3600));
    let wanted = Wanted {
        address: relay(&parent.tasks, parent.wanted.address, 30_000, forever).await,
        stall_after: Duration::from_millis(300),
        ..parent.wanted
    };
    let mut sink = Collected::default();
    let failed = client().fetch(&wanted, |_| true, &mut sink).await;
    assert!(matches!(failed, Err(FetchError::Stalled(_))), "{failed:?}");
}
