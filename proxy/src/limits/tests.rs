//! Limits in virtual time.

use darter_runtime::{Tasks, server::ClientAddress};
use futures::{FutureExt as _, future::join_all};
use http::{Request, StatusCode};
use tower::ServiceExt as _;

use super::*;

fn rate(bytes: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(bytes)
}

fn disk(bytes: u64) -> Rates {
    Rates {
        disk: rate(bytes),
        ..Rates::default()
    }
}

#[tokio::test(start_paused = true)]
async fn transfers_share_a_rate_in_turn() {
    let limits = Limits::new(disk(1_000_000), Metrics::default());
    let begin = Instant::now();
    let pull = || limits.pass(Direction::Disk, Class::Foreground, 4_000_000);
    let ends = join_all((0..4).map(|_| async {
        pull().await;
        begin.elapsed().as_secs_f64()
    }));
    for end in ends.await {
        assert!((15.6..16.0).contains(&end), "{end} s");
    }
}

#[tokio::test(start_paused = true)]
async fn who_leaves_holds_up_nobody() {
    let limits = Limits::new(disk(1_000_000), Metrics::default());
    let pass = |bytes| limits.pass(Direction::Disk, Class::Foreground, bytes);
    let mut gone: Vec<_> = (0..100).map(|_| Box::pin(pass(10_000_000))).collect();
    for one in &mut gone {
        assert!(one.as_mut().now_or_never().is_none());
    }
    let begin = Instant::now();
    let last = async {
        pass(65_536).await;
        begin.elapsed().as_secs_f64()
    };
    let (_, took) = tokio::join!(async { drop(gone) }, last);
    assert!(took < 0.1, "{took} s");
}

#[tokio::test(start_paused = true)]
async fn a_change_is_followed_by_who_waits() {
    let limits = Limits::new(disk(LEAST_RATE.as_u64()), Metrics::default());
    let begin = Instant::now();
    let pull = limits.pass(Direction::Disk, Class::Foreground, 100 << 20);
    let change = async {
        tokio::time::sleep(Duration::from_secs(10)).await;
        limits.set(disk(50 << 20));
    };
    tokio::join!(pull, change);
    let took = begin.elapsed().as_secs_f64();
    assert!((11.8..12.1).contains(&took), "{took} s");
    limits.set(Rates::default());
    assert!(
        limits
            .pass(Direction::Disk, Class::Foreground, u64::MAX / 2)
            .now_or_never()
            .is_some()
    );
}

#[tokio::test(start_paused = true)]
async fn adaptive_control_only_lowers() {
    let limits = Limits::new(disk(1 << 30), Metrics::default());
    limits.allow(disk(1 << 20));
    assert_eq!(limits.holding(), disk(1 << 20));
    limits.set(disk(1 << 19));
    assert_eq!(limits.holding(), disk(1 << 19));
    limits.set(Rates::default());
    assert_eq!(limits.holding(), disk(1 << 20));
    limits.allow(Rates::default());
    assert_eq!(limits.holding(), Rates::default());
}

#[test]
fn what_peers_would_take_for_a_stall_is_refused() {
    let floor = |adaptive_floor| Options {
        adaptive_floor,
        ..Options::default()
    };
    assert!(floor(LEAST_RATE).check().is_ok());
    assert!(floor(ByteSize(0)).check().is_err());
    let low = Options {
        disk: ByteSize(1),
        ..Options::default()
    };
    assert_eq!(low.check().unwrap_err().direction, "disk");
}

/// A pull that could have 10 MB/s, and a preheat that takes all it can.
#[tokio::test(start_paused = true)]
async fn the_background_yields_while_the_foreground_is_busy_and_then_goes_on() {
    let limits = Limits::default();
    let moved = AtomicU64::new(0);
    let preheat = async {
        loop {
            limits
                .pass(Direction::Source, Class::Background, 65_536)
                .await;
            moved.fetch_add(65_536, Ordering::Relaxed);
            // As fast as a link of 100 MB/s.
            tokio::time::sleep(Duration::from_micros(655)).await;
        }
    };
    let pull = async {
        tokio::time::sleep(Duration::from_secs(2)).await;
        let alone = moved.swap(0, Ordering::Relaxed);
        for _ in 0..300 {
            limits
                .pass(Direction::Download, Class::Foreground, 100_000)
                .await;
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let beside = moved.swap(0, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_secs(2)).await;
        (alone, beside, moved.load(Ordering::Relaxed))
    };
    let (alone, beside, after) = tokio::select! {
        moved = pull => moved,
        () = preheat => unreachable!("it goes on"),
    };
    assert!(alone > 50_000_000, "{alone}");
    // 5 % of 30 MB, and what passed before the pull was noticed.
    assert!((1_000_000..2_000_000).contains(&beside), "{beside}");
    assert!(after > 35_000_000, "{after}");
}

async fn ask(limits: &Limits, client: &str, body: &'static str) -> (StatusCode, String) {
    let mut request = Request::put("/limits")
        .body(axum::body::Body::from(body))
        .unwrap();
    let client: std::net::SocketAddr = client.parse().unwrap();
    request.extensions_mut().insert(ClientAddress(client));
    let answer = router(limits.clone()).oneshot(request).await.unwrap();
    let status = answer.status();
    let body = axum::body::to_bytes(answer.into_body(), 10_000).await;
    (status, String::from_utf8(body.unwrap().to_vec()).unwrap())
}

#[tokio::test]
async fn rates_are_changed_from_the_host_itself() {
    let limits = Limits::default();
    let local = "127.0.0.1:9";
    let (status, body) = ask(&limits, local, r#"{"upload":"10 MiB","disk":1000000}"#).await;
    assert_eq!(status, StatusCode::OK);
    assert!(
        body.contains(r#""upload":{"configured":10485760,"holds":10485760"#),
        "{body}"
    );
    assert_eq!(limits.configured().borrow().disk, rate(1_000_000));
    let (status, _) = ask(&limits, local, r#"{"disk":0}"#).await;
    assert_eq!(status, StatusCode::OK);
    let kept = *limits.configured().borrow();
    assert_eq!((kept.upload, kept.disk), (rate(10 << 20), None));
    for (client, body, wanted) in [
        (local, r#"{"upload":"1 KiB"}"#, StatusCode::BAD_REQUEST),
        (local, r#"{"upload":-1}"#, StatusCode::BAD_REQUEST),
        (local, r#"{"uplaod":1000000}"#, StatusCode::BAD_REQUEST),
        (local, "", StatusCode::BAD_REQUEST),
        ("10.0.0.1:9", r#"{"upload":0}"#, StatusCode::FORBIDDEN),
    ] {
        assert_eq!(
            ask(&limits, client, body).await.0,
            wanted,
            "{client} {body}"
        );
    }
    assert_eq!(*limits.configured().borrow(), kept);
}

#[tokio::test(start_paused = true)]
async fn what_is_used_is_shown_and_ends_with_its_tasks() {
    let limits = Limits::default();
    let tasks = Tasks::new();
    tasks.spawn("limits", limits.clone().watch(Options::default()));
    tokio::time::sleep(Duration::from_millis(1500)).await;
    limits
        .pass(Direction::Upload, Class::Foreground, 5_000_000)
        .await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    let lane = &limits.0.lanes[Direction::Upload as usize];
    let used = lane.foreground.used.load(Ordering::Relaxed);
    assert!((4_900_000..5_100_000).contains(&used), "{used}");
    assert!(tasks.stop(Duration::from_secs(60)).await);
}
