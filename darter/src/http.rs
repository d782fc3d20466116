//! A small HTTP client.

use anyhow::{Context as _, Result, ensure};
use bytes::Bytes;
use http_body_util::{BodyExt as _, Empty};
use hyper::{Method, Request, Response, StatusCode, body::Incoming};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

pub(crate) type HttpClient = Client<HttpConnector, Empty<Bytes>>;

pub(crate) fn client() -> HttpClient {
    Client::builder(TokioExecutor::new()).build_http()
}

pub(crate) async fn ask(
    client: &HttpClient,
    method: Method,
    url: &str,
) -> Result<Response<Incoming>> {
    let request = Request::builder()
        .method(method)
        .uri(url)
        .body(Empty::new())?;
    let reply = client
        .request(request)
        .await
        .with_context(|| url.to_owned())?;
    ensure!(
        reply.status() == StatusCode::OK,
        "{url}: {}",
        reply.status()
    );
    Ok(reply)
}

pub(crate) async fn get(client: &HttpClient, url: &str) -> Result<Bytes> {
    let reply = ask(client, Method::GET, url).await?;
    Ok(reply.into_body().collect().await?.to_bytes())
}
