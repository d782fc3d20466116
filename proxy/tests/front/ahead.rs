//! Small layers come before clients ask for them, and nothing else does.

use bytes::Bytes;
use darter_api::Digest;
use darter_runtime::Tasks;
use http::StatusCode;
use serde_json::{Value, json};

use crate::{
    bench::{Bench, blob_path, until, upstream},
    registry::{Access, MANIFEST_TYPE, Registry, Reply, Shelf, content},
};

const RIGHT: &str = "Bearer the-right-one";
const LARGE: usize = 3_000_000;

/// A repository with one image, `v1`.
struct Image {
    repository: &'static str,
    config: Bytes,
    layers: Vec<Bytes>,
}

fn described(blob: &Bytes) -> Value {
    let (media_type, digest) = ("application/octet-stream", Digest::sha256(blob).to_string());
    json!({"mediaType": media_type, "digest": digest, "size": blob.len()})
}

impl Image {
    /// With small layers around a large one.
    fn new(repository: &'static str, seed: u64) -> Self {
        let sizes = [90_000, LARGE, 80_000, 70_000];
        let layers = sizes.iter().zip(seed..);
        Self {
            repository,
            config: content(300, seed + 9),
            layers: layers.map(|(size, seed)| content(*size, seed)).collect(),
        }
    }

    fn on(&self, shelf: Shelf) -> Shelf {
        let layers: Vec<Value> = self.layers.iter().map(described).collect();
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": described(&self.config),
            "layers": layers,
        });
        let blobs = self.layers.iter().chain([&self.config]);
        let shelf = blobs.fold(shelf, |shelf, blob| shelf.blob(self.repository, blob));
        shelf.manifest(self.repository, "v1", &manifest.to_string().into())
    }

    fn manifest_path(&self) -> String {
        format!("/v2/{}/manifests/v1", self.repository)
    }

    fn path(&self, layer: usize) -> String {
        blob_path(self.repository, &self.layers[layer])
    }

    fn config_path(&self) -> String {
        blob_path(self.repository, &self.config)
    }

    /// Whether the registry gave a layer, and how often.
    fn given(&self, registry: &Registry, layer: usize) -> usize {
        let digest = Digest::sha256(&self.layers[layer]).to_string();
        registry.asked("GET", &digest).len()
    }

    /// Pulls the first layer, and waits until what is small after it has come as well.
    async fn is_got_ahead(&self, bench: &Bench, registry: &Registry) {
        bench.get(self.manifest_path()).await;
        bench.get(self.path(0)).await.is_whole(&self.layers[0]);
        until("the next small ones come", || {
            self.given(registry, 2) > 0 && self.given(registry, 3) > 0
        })
        .await;
    }
}

#[tokio::test]
async fn small_layers_come_before_they_are_asked_for() {
    let image = Image::new("app", 1);
    let (bench, registry) = Bench::good(image.on(Shelf::new())).await;
    image.is_got_ahead(&bench, &registry).await;
    for layer in [2, 3] {
        bench
            .get(image.path(layer))
            .await
            .is_whole(&image.layers[layer]);
        assert_eq!(image.given(&registry, layer), 1, "layer {layer}");
    }
    assert_eq!(
        image.given(&registry, 1),
        0,
        "a large one is the client's to ask for"
    );
    bench.get(image.path(1)).await.is_whole(&image.layers[1]);
    bench.stop().await;
}

/// Scanners and lazy pullers.
#[tokio::test]
async fn who_reads_a_configuration_or_a_part_is_given_nothing_ahead() {
    let (read, other) = (Image::new("app", 1), Image::new("other", 20));
    let shelf = other.on(read.on(Shelf::new()));
    let (bench, registry) = Bench::good(shelf).await;
    bench.get(read.manifest_path()).await;
    bench.get(read.config_path()).await.is_whole(&read.config);
    let head = bench.head(read.path(0)).await;
    assert_eq!(head.status, StatusCode::OK);
    let part = bench.ask(read.path(1)).header("range", "bytes=100-199");
    let part = part.send().await;
    assert_eq!(part.status, StatusCode::PARTIAL_CONTENT);
    assert_eq!(part.body, read.layers[1][100..200]);
    // What was begun for those would have come before this.
    other.is_got_ahead(&bench, &registry).await;
    for layer in [0, 2, 3] {
        assert_eq!(read.given(&registry, layer), 0, "layer {layer}");
    }
    bench.stop().await;
}

#[tokio::test]
async fn who_may_not_read_a_layer_has_nothing_got_ahead() {
    let (private, other) = (Image::new("private", 1), Image::new("other", 20));
    let shelf = Shelf::new().access("private", Access::Bearer(RIGHT.to_owned()));
    let (bench, registry) = Bench::good(other.on(private.on(shelf))).await;
    let known = bench.ask(private.manifest_path()).authorized(Some(RIGHT));
    assert_eq!(known.send().await.status, StatusCode::OK);
    for wrong in [None, Some("Bearer a-wrong-one")] {
        let refused = bench.ask(private.path(0)).authorized(wrong).send().await;
        assert_eq!(refused.status, StatusCode::UNAUTHORIZED);
    }
    other.is_got_ahead(&bench, &registry).await;
    for layer in [2, 3] {
        assert_eq!(private.given(&registry, layer), 0, "layer {layer}");
    }
    // Who has it is not kept from it by who has not.
    let mine = bench.ask(private.path(0)).authorized(Some(RIGHT));
    mine.send().await.is_whole(&private.layers[0]);
    until("the next small ones come", || {
        private.given(&registry, 2) > 0 && private.given(&registry, 3) > 0
    })
    .await;
    let refused = bench.get(private.path(2)).await;
    assert_eq!(
        refused.status,
        StatusCode::UNAUTHORIZED,
        "what is here is not anybody's"
    );
    bench.stop().await;
}

#[tokio::test]
async fn what_can_t_be_got_ahead_is_not_tried_again_with_every_request() {
    let image = Image::new("app", 1);
    let others = [Image::new("second", 20), Image::new("third", 40)];
    let shelf = image.on(Shelf::new());
    let shelf = others.iter().fold(shelf, |shelf, other| other.on(shelf));
    let lost = Digest::sha256(&image.layers[2]).to_string();
    let (bench, registry) =
        Bench::twisted(shelf, move |seen, good| match seen.path.contains(&lost) {
            true => Reply::new(404),
            false => good,
        })
        .await;
    image.is_got_ahead(&bench, &registry).await;
    others[0].is_got_ahead(&bench, &registry).await;
    let tried = image.given(&registry, 2);
    for _ in 0..5 {
        bench.get(image.path(0)).await.is_whole(&image.layers[0]);
    }
    others[1].is_got_ahead(&bench, &registry).await;
    assert_eq!(image.given(&registry, 2), tried, "as often as before");
    let missing = bench.get(image.path(2)).await;
    assert_eq!(
        missing.status,
        StatusCode::NOT_FOUND,
        "who asks for it is told"
    );
    bench.stop().await;
}

#[tokio::test]
async fn it_can_be_switched_off() {
    let image = Image::new("app", 1);
    let tasks = Tasks::new();
    let registry = Registry::good(image.on(Shelf::new()), &tasks).await;
    let list = vec![upstream("registry.test", registry.url())];
    let bench = Bench::with(tasks, |options| {
        options.upstreams = list;
        options.swarm.ahead = 0;
    })
    .await;
    bench.get(image.manifest_path()).await;
    bench.get(image.path(0)).await.is_whole(&image.layers[0]);
    // Whole, so that whatever was begun beside it has had its time.
    bench.get(image.path(1)).await.is_whole(&image.layers[1]);
    assert_eq!(image.given(&registry, 2) + image.given(&registry, 3), 0);
    bench.stop().await;
}
