//! Tokens and signed URLs that end while a blob is on its way.

use std::time::Duration;

use anyhow::{Result, ensure};
use darter_integration::{
    guarded::{Authority, Cut, Objects, Redirecting, Tokens},
    http::get,
    image::{Blob, Flavour, Image},
};

use crate::company::{ALLOWED, no_secret_in, node, upstream};

#[tokio::test(flavor = "multi_thread")]
async fn signed_urls_and_tokens_that_expire_in_mid_blob_are_nobodys_business() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let authority = Authority::new(&root.join("authority"))?;
    let tokens = Tokens::start(&authority, ALLOWED).await?;
    tokens.allow(None, "library/app");
    let objects = Objects::start(&authority).await?;
    let registry = Redirecting::start(&authority, &objects, &tokens, ALLOWED).await?;
    let layers = vec![Blob::layer(1, 6_000_000)];
    let image = Image::of("library/app", Flavour::Oci, layers)?;
    registry.put(&image, "1");
    let more = format!(
        ", realms = [\"{}\"], redirects = [\"{}\"]",
        tokens.authority(),
        objects.authority()
    );
    let node = node(root, &upstream(&registry.url(), &authority, &more), ALLOWED).await?;
    // By the time the body breaks off, URL and token have both expired.
    objects.cut(Cut {
        after: 2_500_000,
        pause: ALLOWED + Duration::from_secs(1),
    });
    let layer = &image.layers[0];
    let url = format!(
        "{}/v2/library/app/blobs/{}?ns=corp.test",
        node.mirror(),
        layer.digest
    );
    let reply = get(&url).await?;
    ensure!(
        reply.status() == 200 && reply.body() == &layer.bytes,
        "{}",
        reply.status()
    );
    let seen = objects.seen();
    ensure!(seen.len() == 2 && seen[0].0 != seen[1].0, "{seen:?}");
    ensure!(seen.iter().all(|(_, status)| *status < 300), "{seen:?}");
    ensure!(tokens.issued(None) >= 2, "{} tokens", tokens.issued(None));
    ensure!(objects.authorizations() == 0, "the store was shown a token");
    let mut secrets = tokens.secrets();
    secrets.extend(seen.into_iter().map(|(signature, _)| signature));
    ensure!(secrets.len() >= 4, "{}", secrets.len());
    no_secret_in(&node, &secrets)
}
