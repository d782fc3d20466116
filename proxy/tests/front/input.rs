//! What clients ask: bad input, ranges, heads, lists, and which upstream is meant.

use bytes::Bytes;
use darter_api::Digest;
use darter_runtime::Tasks;
use futures::future::join_all;
use http::StatusCode;

use crate::{
    bench::{Bench, blob_path, upstream},
    registry::{Framing, MANIFEST_TYPE, Registry, Reply, Shelf, content},
};

/// What no registry of ours has.
fn absent() -> String {
    format!("sha256:{}", "0".repeat(64))
}

#[tokio::test]
async fn bad_names_digests_and_tags_get_the_4xx_and_json_of_the_specification() {
    let (bench, registry) = Bench::good(Shelf::new()).await;
    let long = "a".repeat(129);
    let cases = [
        (
            "GET",
            "/v2/app/blobs/sha256:xyz".to_owned(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "GET",
            "/v2/app/blobs/md5:d41d8cd98f00b204e9800998ecf8427e".to_owned(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "GET",
            format!("/v2/app/blobs/sha256:{}", "A".repeat(64)),
            400,
            "DIGEST_INVALID",
        ),
        (
            "GET",
            format!("/v2/app/blobs/sha256:{}", "0".repeat(63)),
            400,
            "DIGEST_INVALID",
        ),
        (
            "GET",
            format!("/v2/app/blobs/sha512:{}", "0".repeat(64)),
            400,
            "DIGEST_INVALID",
        ),
        (
            "GET",
            "/v2/app/manifests/sha256:1".to_owned(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "GET",
            "/v2/app/referrers/latest".to_owned(),
            400,
            "DIGEST_INVALID",
        ),
        (
            "GET",
            format!("/v2/App/blobs/{}", absent()),
            400,
            "NAME_INVALID",
        ),
        (
            "GET",
            format!("/v2/../etc/blobs/{}", absent()),
            400,
            "NAME_INVALID",
        ),
        (
            "GET",
            format!("/v2/a%2Fb/blobs/{}", absent()),
            400,
            "NAME_INVALID",
        ),
        (
            "GET",
            format!("/v2/a//b/blobs/{}", absent()),
            400,
            "NAME_INVALID",
        ),
        (
            "GET",
            format!("/v2/{}/blobs/{}", "a".repeat(300), absent()),
            400,
            "NAME_INVALID",
        ),
        ("GET", "/v2/-a/tags/list".to_owned(), 400, "NAME_INVALID"),
        (
            "GET",
            "/v2/app/manifests/.hidden".to_owned(),
            400,
            "TAG_INVALID",
        ),
        (
            "GET",
            format!("/v2/app/manifests/{long}"),
            400,
            "TAG_INVALID",
        ),
        ("GET", "/v2/app".to_owned(), 404, "UNSUPPORTED"),
        ("GET", "/metrics".to_owned(), 404, "UNSUPPORTED"),
        (
            "PUT",
            "/v2/app/manifests/latest".to_owned(),
            405,
            "UNSUPPORTED",
        ),
        (
            "POST",
            "/v2/app/blobs/uploads/".to_owned(),
            405,
            "UNSUPPORTED",
        ),
        (
            "DELETE",
            format!("/v2/app/blobs/{}", absent()),
            405,
            "UNSUPPORTED",
        ),
    ];
    for (method, path, status, code) in cases {
        let answer = bench.ask(&*path).method(method).send().await;
        assert_eq!(
            (answer.status.as_u16(), answer.code().as_str()),
            (status, code),
            "{method} {path}"
        );
        assert_eq!(answer.header("content-type"), "application/json", "{path}");
        if method == "GET" {
            let head = bench.head(&*path).await;
            assert!(head.body.is_empty(), "HEAD {path}");
            assert_eq!(head.status.as_u16(), status, "HEAD {path}");
        }
    }
    assert_eq!(registry.connections(), 0, "nothing was dialled");
    bench.stop().await;
}

#[tokio::test]
async fn an_upstream_that_is_not_listed_is_name_unknown_and_is_never_dialled() {
    let (bench, registry) = Bench::good(Shelf::new()).await;
    let trap = Registry::good(Shelf::new(), &bench.tasks).await;
    let trap_at = trap.address().to_string();
    for ns in [
        trap_at.as_str(),
        &trap.url(),
        "ghcr.io",
        "169.254.169.254",
        "registry.test@evil.test",
        "registry.test%00",
        "",
    ] {
        for path in [
            format!("/v2/app/blobs/{}?ns={ns}", absent()),
            format!("/v2/app/manifests/latest?ns={ns}"),
            format!("/v2/app/tags/list?ns={ns}"),
        ] {
            let answer = bench.get(&*path).await;
            assert_eq!(
                (answer.status, answer.code().as_str()),
                (StatusCode::NOT_FOUND, "NAME_UNKNOWN"),
                "{path}"
            );
        }
    }
    assert_eq!((registry.connections(), trap.connections()), (0, 0));
    bench.stop().await;
}

#[tokio::test]
async fn the_base_is_answered_at_once_and_alone() {
    let tasks = Tasks::new();
    let silent = Registry::twisted(Shelf::new(), &tasks, |_, _| Reply::silent()).await;
    let bench = Bench::of(vec![upstream("registry.test", silent.url())], tasks).await;
    let base = bench.get("/v2/").await;
    assert_eq!((base.status, &base.body[..]), (StatusCode::OK, &b"{}"[..]));
    assert_eq!(
        base.header("docker-distribution-api-version"),
        "registry/2.0"
    );
    let moved = bench.get("/v2").await;
    assert_eq!(moved.status, StatusCode::MOVED_PERMANENTLY);
    assert_eq!(moved.header("location"), "/v2/");
    assert_eq!(silent.connections(), 0);
    bench.stop().await;
}

#[tokio::test]
async fn single_open_suffix_and_odd_ranges_are_right_cold_and_warm() {
    const SIZE: usize = 700_001;
    let last = format!("bytes {}-{}/{SIZE}", SIZE - 5, SIZE - 1);
    let cases: Vec<(&str, u16, String, std::ops::Range<usize>)> = vec![
        ("bytes=0-0", 206, format!("bytes 0-0/{SIZE}"), 0..1),
        (
            "bytes=1000-1999",
            206,
            format!("bytes 1000-1999/{SIZE}"),
            1000..2000,
        ),
        (
            "bytes=300000-",
            206,
            format!("bytes 300000-{}/{SIZE}", SIZE - 1),
            300_000..SIZE,
        ),
        (
            "bytes=0-",
            206,
            format!("bytes 0-{}/{SIZE}", SIZE - 1),
            0..SIZE,
        ),
        ("bytes=-5", 206, last.clone(), SIZE - 5..SIZE),
        (
            "bytes=-99999999",
            206,
            format!("bytes 0-{}/{SIZE}", SIZE - 1),
            0..SIZE,
        ),
        ("bytes=699996-99999999", 206, last, SIZE - 5..SIZE),
        ("bytes=700001-", 416, format!("bytes */{SIZE}"), 0..0),
        ("bytes=99999999-", 416, format!("bytes */{SIZE}"), 0..0),
        ("bytes=-0", 416, format!("bytes */{SIZE}"), 0..0),
        ("bytes=0-9,x", 200, String::new(), 0..SIZE),
        ("bytes=0-,0-9", 200, String::new(), 0..SIZE),
        ("bytes=9-3", 200, String::new(), 0..SIZE),
        ("bytes=a-b", 200, String::new(), 0..SIZE),
        ("pages=1-2", 200, String::new(), 0..SIZE),
    ];
    let blobs: Vec<Bytes> = (0..cases.len() as u64)
        .map(|n| content(SIZE, n + 1))
        .collect();
    let shelf = blobs
        .iter()
        .fold(Shelf::new(), |shelf, blob| shelf.blob("app", blob));
    let (bench, _registry) = Bench::good(shelf).await;
    let bench = &bench;
    join_all(cases.iter().zip(&blobs).map(|(case, blob)| async move {
        let (range, status, content_range, part) = case;
        let path = blob_path("app", blob);
        for state in ["cold", "warm"] {
            let answer = bench.ask(&*path).header("range", range).send().await;
            assert_eq!(answer.status.as_u16(), *status, "{range} {state}");
            assert_eq!(
                answer.header("content-range"),
                content_range,
                "{range} {state}"
            );
            if *status == 416 {
                continue;
            }
            assert!(answer.body == blob.slice(part.clone()), "{range} {state}");
            assert_eq!(answer.header("content-length"), part.len().to_string());
            assert_eq!(answer.header("accept-ranges"), "bytes");
        }
        bench.get(&*path).await.is_whole(blob);
    }))
    .await;
}

#[tokio::test]
async fn several_ranges_are_parts_cold_and_warm() {
    const SIZE: usize = 700_001;
    let blob = content(SIZE, 1);
    let (bench, _registry) = Bench::good(Shelf::new().blob("app", &blob)).await;
    let path = blob_path("app", &blob);
    for state in ["cold", "warm"] {
        let ask = bench.ask(&*path).header("range", "bytes=300000-300009,-3");
        let answer = ask.send().await;
        assert_eq!(answer.status.as_u16(), 206, "{state}");
        let kind = answer.header("content-type").to_owned();
        let boundary = kind.strip_prefix("multipart/byteranges; boundary=");
        let boundary = boundary.expect("parts");
        let mut wanted = Vec::new();
        for (line, part) in [("", 300_000..300_010), ("\r\n", SIZE - 3..SIZE)] {
            let (first, last) = (part.start, part.end - 1);
            let head = format!(
                "{line}--{boundary}\r\nContent-Type: application/octet-stream\r\n\
                 Content-Range: bytes {first}-{last}/{SIZE}\r\n\r\n"
            );
            wanted.extend_from_slice(head.as_bytes());
            wanted.extend_from_slice(&blob[part]);
        }
        wanted.extend_from_slice(format!("\r\n--{boundary}--\r\n").as_bytes());
        assert!(answer.body == wanted, "{state}");
        assert_eq!(answer.header("content-length"), wanted.len().to_string());
        bench.get(&*path).await.is_whole(&blob);
    }
}

#[tokio::test]
async fn a_head_tells_all_and_downloads_nothing() {
    let blob = content(3_000_000, 1);
    let manifest = Bytes::from(format!(
        r#"{{"schemaVersion":2,"mediaType":"{MANIFEST_TYPE}"}}"#
    ));
    let shelf = Shelf::new()
        .blob("app", &blob)
        .manifest("app", "v1", &manifest);
    let (bench, registry) = Bench::good(shelf).await;
    let digest = Digest::sha256(&blob).to_string();
    for state in ["cold", "warm"] {
        let head = bench.head(blob_path("app", &blob)).await;
        assert_eq!(head.status, StatusCode::OK, "{state}");
        assert_eq!(head.header("content-length"), "3000000");
        assert_eq!(head.header("docker-content-digest"), digest);
        assert_eq!(head.header("accept-ranges"), "bytes");
        assert_eq!(head.header("content-type"), "application/octet-stream");
        assert_eq!(head.header("etag"), format!("\"{digest}\""));
        assert_eq!(head.header("oci-namespace"), "registry.test");
        if state == "cold" {
            assert_eq!(registry.asked("GET", "/blobs/").len(), 0);
            assert_eq!(registry.sent(), 0);
            bench.get(blob_path("app", &blob)).await.is_whole(&blob);
        }
    }
    let by_digest = format!("/v2/app/manifests/{}", Digest::sha256(&manifest));
    for path in ["/v2/app/manifests/v1", &by_digest] {
        let (head, get) = (bench.head(path).await, bench.get(path).await);
        get.is_whole(&manifest);
        for name in [
            "content-type",
            "content-length",
            "docker-content-digest",
            "etag",
        ] {
            assert_eq!(head.header(name), get.header(name), "{path} {name}");
            assert!(!head.header(name).is_empty(), "{path} {name}");
        }
        assert_eq!(get.header("content-type"), MANIFEST_TYPE);
        let unchanged = bench.ask(path).header("if-none-match", get.header("etag"));
        assert_eq!(unchanged.send().await.status, StatusCode::NOT_MODIFIED);
    }
    let same = bench
        .ask(blob_path("app", &blob))
        .header("if-none-match", digest);
    assert_eq!(same.send().await.status, StatusCode::NOT_MODIFIED);
    bench.stop().await;
}

#[tokio::test]
async fn the_whole_accept_list_reaches_the_registry_also_from_many_lines() {
    let manifest = Bytes::from_static(br#"{"schemaVersion":2}"#);
    let shelf = Shelf::new().manifest("app", "v1", &manifest);
    let (bench, registry) = Bench::good(shelf).await;
    let types = [
        "application/vnd.docker.distribution.manifest.v2+json",
        "application/vnd.oci.image.index.v1+json",
    ];
    let ask = bench.ask("/v2/app/manifests/v1");
    let answer = types
        .iter()
        .fold(ask, |ask, one| ask.header("accept", one))
        .send()
        .await;
    answer.is_whole(&manifest);
    let asked = registry.asked("HEAD", "/manifests/v1");
    let accept = asked[0].header("accept").unwrap_or_default();
    assert!(types.iter().all(|one| accept.contains(one)), "{accept}");
    bench.stop().await;
}

#[tokio::test]
async fn lists_pass_through_with_links_to_this_mirror() {
    let subject = absent();
    let list = r#"{"name":"app","tags":["a","b"]}"#;
    let (bench, registry) =
        Bench::twisted(Shelf::new().blob("app", &content(1, 1)), |seen, good| {
            if seen.path.ends_with("/tags/list") {
                return Reply::new(200)
                    .header("Content-Type", "application/json")
                    .header("Link", "</v2/app/tags/list?n=2&last=b>; rel=\"next\"")
                    .body(r#"{"name":"app","tags":["a","b"]}"#);
            }
            if seen.path.contains("/referrers/") {
                return Reply::new(200)
                    .header("Content-Type", "application/vnd.oci.image.index.v1+json")
                    .header("OCI-Filters-Applied", "artifactType")
                    .framing(Framing::Chunked)
                    .body("{}");
            }
            good
        })
        .await;
    for (path, link) in [
        (
            "/v2/app/tags/list?n=2",
            "</v2/app/tags/list?n=2&last=b>; rel=\"next\"",
        ),
        (
            "/v2/app/tags/list?n=2&ns=registry.test",
            "</v2/app/tags/list?n=2&last=b&ns=registry.test>; rel=\"next\"",
        ),
        (
            "/v2/registry.test/app/tags/list?n=2",
            "</v2/registry.test/app/tags/list?n=2&last=b>; rel=\"next\"",
        ),
    ] {
        let answer = bench.get(path).await;
        assert_eq!(
            (answer.status.as_u16(), &answer.body[..]),
            (200, list.as_bytes())
        );
        assert_eq!(answer.header("link"), link);
    }
    for seen in registry.asked("GET", "/tags/list") {
        assert_eq!(
            (seen.path.as_str(), seen.query.as_str()),
            ("/v2/app/tags/list", "n=2")
        );
    }
    let referrers = format!("/v2/app/referrers/{subject}?artifactType=x");
    let answer = bench.get(referrers).await;
    assert_eq!(
        (answer.status.as_u16(), &answer.body[..]),
        (200, &b"{}"[..])
    );
    assert_eq!(answer.header("oci-filters-applied"), "artifactType");
    bench.stop().await;
}

#[tokio::test]
async fn the_upstream_comes_from_ns_then_from_the_path_then_it_is_the_first() {
    let (one, two) = (content(100_000, 1), content(100_000, 2));
    let tasks = Tasks::new();
    let first = Registry::good(Shelf::new().blob("app", &one), &tasks).await;
    let second = Registry::good(Shelf::new().blob("app", &two), &tasks).await;
    let list = vec![
        upstream("one.test", first.url()),
        upstream("two.test:5000", second.url()),
    ];
    let bench = Bench::of(list, tasks).await;
    bench.get(blob_path("app", &one)).await.is_whole(&one);
    bench
        .get(blob_path("two.test:5000/app", &two))
        .await
        .is_whole(&two);
    let by_ns = blob_path("app", &two) + "?ns=two.test%3A5000";
    bench.get(&*by_ns).await.is_whole(&two);
    let elsewhere = bench.get(blob_path("app", &two)).await;
    assert_eq!(
        elsewhere.status,
        StatusCode::NOT_FOUND,
        "the first registry has it not"
    );
    assert!(
        second
            .seen()
            .iter()
            .all(|seen| seen.path.starts_with("/v2/app/"))
    );
    assert!(
        second.seen().iter().all(|seen| seen.query.is_empty()),
        "ns is stripped"
    );
    bench.stop().await;
}
