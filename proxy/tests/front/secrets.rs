//! What is secret stays out of the log, at its most talkative.

use std::{cell::Cell, io, sync::Arc};

use darter_runtime::Tasks;
use parking_lot::Mutex;
use tracing_subscriber::{
    Layer as _, filter::dynamic_filter_fn, fmt::MakeWriter, layer::SubscriberExt as _,
};

use crate::{
    bench::{Bench, blob_path, upstream},
    registry::{Access, End, Registry, Reply, Shelf, content},
};

/// A log in memory.
#[derive(Clone, Default)]
struct Log(Arc<Mutex<Vec<u8>>>);

impl io::Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl<'a> MakeWriter<'a> for Log {
    type Writer = Self;

    fn make_writer(&'a self) -> Self {
        self.clone()
    }
}

thread_local! {
    /// Whether this thread's lines are kept; other tests of this process have their own.
    static KEPT: Cell<bool> = const { Cell::new(false) };
}

const OWN_TOKEN: &str = "Bearer s3cret-client-token";
const PASSWORD: &str = "Basic czNjcmV0LXVzZXI6czNjcmV0LXBhc3N3b3Jk";
/// Nothing of these may be seen: client credentials, the proxy's anonymous tokens, signatures
/// in redirects, user names in realms, what a client put into a query.
const SECRETS: [&str; 7] = [
    "s3cret-client-token",
    "czNjcmV0LXVzZXI6",
    "anonymous-open",
    "s3cret-signature",
    "s3cret-realm-user",
    "s3cret-realm-query",
    "s3cret-query",
];

#[tokio::test]
async fn no_token_and_no_credential_is_ever_logged_even_at_trace_level() {
    let log = Log::default();
    let layer = tracing_subscriber::fmt::layer()
        .with_ansi(false)
        .with_writer(log.clone());
    let here = dynamic_filter_fn(|_, _| KEPT.get());
    let subscriber = tracing_subscriber::registry().with(layer.with_filter(here));
    tracing::subscriber::set_global_default(subscriber).expect("no other test sets one");
    // The runtime of this test has one thread, so that all of the proxy logs here.
    KEPT.set(true);

    let blob = content(800_000, 1);
    let tasks = Tasks::new();
    let shelf = Shelf::new()
        .access("open", Access::AnonymousToken)
        .blob("open", &blob)
        .access("private", Access::Bearer(OWN_TOKEN.to_owned()))
        .blob("private", &blob)
        .access("basic", Access::Basic(PASSWORD.to_owned()))
        .blob("basic", &blob)
        .blob("signed", &blob)
        .blob("cut", &blob);
    let registry = Registry::twisted(shelf, &tasks, |seen, good| {
        let get = seen.method == "GET";
        if seen.path.contains("/realm/") {
            let realm =
                "Bearer realm=\"http://s3cret-realm-user:x@127.0.0.2/token?k=s3cret-realm-query\"";
            return Reply::new(401).header("WWW-Authenticate", realm);
        }
        if get && seen.path.contains("/far/") {
            let to = "http://127.0.0.2:1/x?sig=s3cret-signature";
            return Reply::new(307).header("Location", to);
        }
        if get && seen.path.contains("/signed/") && seen.query.is_empty() {
            let to = format!("{}?sig=s3cret-signature", seen.path);
            return Reply::new(307).header("Location", to);
        }
        if get && (seen.query.contains("s3cret-signature") || seen.path.contains("/cut/")) {
            return good.end(End::Fin(300_000));
        }
        good
    })
    .await;
    let bench = Bench::of(vec![upstream("registry.test", registry.url())], tasks).await;
    for credential in [None, Some(OWN_TOKEN), Some(PASSWORD)] {
        for repository in [
            "open", "private", "basic", "signed", "cut", "realm", "far", "none",
        ] {
            let path = blob_path(repository, &blob);
            bench.ask(&*path).authorized(credential).send().await;
            let tag = format!("/v2/{repository}/manifests/v1");
            bench.ask(tag).authorized(credential).send().await;
            let list = format!("/v2/{repository}/tags/list?token=s3cret-query");
            bench.ask(list).authorized(credential).send().await;
        }
    }
    assert!(
        registry
            .seen()
            .iter()
            .any(|seen| seen.header("authorization") == Some(PASSWORD))
    );
    let anonymous = Some("Bearer anonymous-open");
    assert!(
        registry
            .seen()
            .iter()
            .any(|seen| seen.header("authorization") == anonymous)
    );
    bench.stop().await;

    let text = String::from_utf8_lossy(&log.0.lock()).into_owned();
    assert!(
        text.contains("answered") && text.contains("TRACE"),
        "the log is at work"
    );
    for secret in SECRETS {
        let line = text.lines().find(|line| line.contains(secret));
        assert_eq!(line, None, "{secret}");
    }
}
