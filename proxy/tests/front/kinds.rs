//! Registries as they are: methods they lack, redirects they prefer, digests, types and lists.

use bytes::Bytes;
use darter_api::{Algorithm, Digest};
use darter_runtime::Tasks;
use http::StatusCode;

use crate::{
    bench::{Bench, BodyEnd, blob_path, upstream},
    registry::{End, Framing, MANIFEST_TYPE, Registry, Reply, Seen, Shelf, content},
};

fn blob() -> Bytes {
    content(700_000, 1)
}

fn manifest() -> Bytes {
    Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}"}}"#
    ))
}

fn sha512(bytes: &[u8]) -> Digest {
    Digest::of(Algorithm::Sha512, bytes)
}

fn shelf() -> Shelf {
    Shelf::new()
        .blob("app", &blob())
        .manifest("app", "v1", &manifest())
}

async fn pulls(bench: &Bench, name: &str) {
    let by_digest = format!("/v2/app/manifests/{}", Digest::sha256(&manifest()));
    for path in ["/v2/app/manifests/v1", &by_digest] {
        for method in ["HEAD", "GET"] {
            let answer = bench.ask(path).method(method).send().await;
            assert_eq!(answer.status, StatusCode::OK, "{name}: {method} {path}");
            assert_eq!(answer.header("content-type"), MANIFEST_TYPE, "{name}");
            let length = manifest().len().to_string();
            assert_eq!(
                answer.header("content-length"),
                length,
                "{name}: {method} {path}"
            );
        }
        bench.get(path).await.is_whole(&manifest());
    }
    let path = blob_path("app", &blob());
    let head = bench.head(&*path).await;
    assert_eq!(
        head.header("content-length"),
        blob().len().to_string(),
        "{name}"
    );
    let part = bench.ask(&*path).header("range", "bytes=9-99").send().await;
    assert!(part.body == blob().slice(9..100), "{name}");
    bench.get(&*path).await.is_whole(&blob());
}

#[tokio::test]
async fn registries_without_heads_lengths_or_ranges() {
    type Twist = fn(&Seen, Reply) -> Reply;
    let cases: [(&str, Twist); 6] = [
        ("405 to HEAD", |seen, good| match seen.method.as_str() {
            "HEAD" => Reply::new(405),
            _ => good,
        }),
        ("501 to HEAD", |seen, good| match seen.method.as_str() {
            "HEAD" => Reply::new(501),
            _ => good,
        }),
        ("no digest in the headers", |_, mut good| {
            good.headers
                .retain(|(name, _)| name != "Docker-Content-Digest");
            good
        }),
        ("no lengths at all", |_, good| {
            good.framing(Framing::Chunked)
        }),
        ("media types with parameters", |_, mut good| {
            for (name, value) in &mut good.headers {
                if name == "Content-Type" {
                    value.push_str("; charset=utf-8");
                }
            }
            good
        }),
        ("no ranges", |_, good| {
            if good.status == 206 {
                return Reply::new(200)
                    .header("Content-Type", "application/octet-stream")
                    .body(blob());
            }
            good
        }),
    ];
    for (name, twist) in cases {
        let (bench, _registry) = Bench::twisted(shelf(), twist).await;
        pulls(&bench, name).await;
        bench.stop().await;
    }
}

#[tokio::test]
async fn redirects_of_all_kinds_to_a_store() {
    for status in [301, 302, 303, 307, 308] {
        let tasks = Tasks::new();
        let store = Registry::at("127.0.0.2", shelf(), &tasks, |_, good| good).await;
        let to = store.url();
        let registry = Registry::twisted(shelf(), &tasks, move |seen, good| {
            if seen.path.contains("/blobs/") {
                return Reply::new(status).header("Location", format!("{to}{}?sig=1", seen.path));
            }
            good
        })
        .await;
        let mut one = upstream("registry.test", registry.url());
        one.redirects = vec!["127.0.0.2".to_owned()];
        let bench = Bench::of(vec![one], tasks).await;
        pulls(&bench, &status.to_string()).await;
        assert!(store.connections() > 0);
        bench.stop().await;
    }
}

#[tokio::test]
async fn digests_of_512_bits() {
    let (bytes, wrong) = (content(600_000, 3), content(600_000, 4));
    let digest = sha512(&bytes);
    let of_wrong = sha512(&content(5, 5));
    let small = manifest();
    let shelf = Shelf::new()
        .raw(
            "app",
            &format!("blobs/{digest}"),
            &bytes,
            "application/octet-stream",
        )
        .raw(
            "app",
            &format!("blobs/{of_wrong}"),
            &wrong,
            "application/octet-stream",
        )
        .raw(
            "app",
            &format!("manifests/{}", sha512(&small)),
            &small,
            MANIFEST_TYPE,
        );
    let (bench, registry) = Bench::good(shelf).await;
    for _ in 0..2 {
        let answer = bench.get(format!("/v2/app/blobs/{digest}")).await;
        answer.is_whole(&bytes);
        assert_eq!(answer.header("docker-content-digest"), digest.to_string());
    }
    assert_eq!(
        registry.asked("GET", &digest.to_string()).len(),
        1,
        "it is kept"
    );
    let manifest = format!("/v2/app/manifests/{}", sha512(&small));
    bench.get(manifest).await.is_whole(&small);
    let refused = bench.get(format!("/v2/app/blobs/{of_wrong}")).await;
    assert!(refused.status != StatusCode::OK || refused.body.len() < wrong.len());
    bench.stop().await;
}

#[tokio::test]
async fn a_registry_without_referrers_says_so_and_has_the_tag_that_clients_fall_back_to() {
    let subject = Digest::sha256(&manifest());
    let tag = subject.to_string().replace(':', "-");
    let index = Bytes::from_static(
        br#"{"schemaVersion":2,"mediaType":"application/vnd.oci.image.index.v1+json","manifests":[]}"#,
    );
    let kind = "application/vnd.oci.image.index.v1+json";
    let digest = Digest::sha256(&index);
    let shelf = shelf()
        .raw("app", &format!("manifests/{tag}"), &index, kind)
        .raw("app", &format!("manifests/{digest}"), &index, kind);
    let (bench, _registry) = Bench::good(shelf).await;
    let referrers = bench.get(format!("/v2/app/referrers/{subject}")).await;
    assert_eq!(referrers.status, StatusCode::NOT_FOUND);
    let by_tag = bench.get(format!("/v2/app/manifests/{tag}")).await;
    by_tag.is_whole(&index);
    assert_eq!(by_tag.header("content-type"), kind);
    bench.stop().await;
}

/// A short one is sent whole or not at all; a long one ends where the registry's does.
#[tokio::test]
async fn lists_of_any_length_up_to_a_limit() {
    const LIMIT: usize = 16 << 20;
    let whole = |length| (length, End::Good);
    type Case = (Framing, (usize, End), Result<BodyEnd, u16>);
    let cases: [Case; 8] = [
        (Framing::Length, whole(1000), Ok(BodyEnd::Whole)),
        (Framing::Chunked, whole(300_000), Ok(BodyEnd::Whole)),
        (Framing::Length, whole(LIMIT), Ok(BodyEnd::Whole)),
        (Framing::Length, whole(LIMIT + 1), Err(502)),
        (Framing::Chunked, whole(LIMIT + 1), Ok(BodyEnd::Short)),
        (Framing::Length, (300_000, End::Fin(1000)), Err(502)),
        (
            Framing::Length,
            (300_000, End::Fin(200_000)),
            Ok(BodyEnd::Short),
        ),
        (
            Framing::Chunked,
            (300_000, End::Fin(200_000)),
            Ok(BodyEnd::Short),
        ),
    ];
    for (framing, (length, end), wanted) in cases {
        let case = format!("{framing:?} {length} {end:?}");
        let body = Bytes::from(vec![b'x'; length]);
        let list = body.clone();
        let (bench, _registry) = Bench::twisted(Shelf::new(), move |seen, good| {
            if !seen.path.ends_with("/tags/list") {
                return good;
            }
            let reply = Reply::new(200).body(list.clone()).framing(framing);
            reply.end(end.clone())
        })
        .await;
        let answer = bench.get("/v2/app/tags/list").await;
        match wanted {
            Ok(end) => {
                assert_eq!((answer.status.as_u16(), &answer.end), (200, &end), "{case}");
                assert!(answer.body.len() <= LIMIT && body.starts_with(&answer.body));
                let is_whole = answer.body.len() == length;
                assert_eq!(is_whole, end == BodyEnd::Whole, "{case}");
            }
            Err(status) => assert_eq!(answer.status.as_u16(), status, "{case}"),
        }
        bench.stop().await;
    }
}
