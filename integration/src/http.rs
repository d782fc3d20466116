//! A small HTTP client: bodies in memory, statuses returned as they are.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

/// Sends a request with headers and body, and reads the whole reply.
///
/// # Errors
/// When no whole reply comes.
pub async fn send(
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
    body: Bytes,
) -> Result<Response<Bytes>> {
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    let response = client
        .request(request.body(Full::new(body))?)
        .await
        .with_context(|| url.to_owned())?;
    let (parts, body) = response.into_parts();
    let body = body
        .collect()
        .await
        .with_context(|| format!("body of {url}"))?;
    Ok(Response::from_parts(parts, body.to_bytes()))
}

/// A GET without headers.
///
/// # Errors
/// When no whole reply comes.
pub async fn get(url: &str) -> Result<Response<Bytes>> {
    send(Method::GET, url, &[], Bytes::new()).await
}
