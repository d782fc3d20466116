//! A small HTTP client: bodies in memory, statuses returned as they are.

use anyhow::{Context as _, Result};
use bytes::Bytes;
use http::{Method, Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_rustls::HttpsConnectorBuilder;
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};

use crate::guarded::Authority;

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
    whole(url, client.request(request.body(Full::new(body))?).await).await
}

async fn whole(
    url: &str,
    response: Result<Response<Incoming>, hyper_util::client::legacy::Error>,
) -> Result<Response<Bytes>> {
    let (parts, body) = response.with_context(|| url.to_owned())?.into_parts();
    let body = body
        .collect()
        .await
        .with_context(|| format!("body of {url}"))?;
    Ok(Response::from_parts(parts, body.to_bytes()))
}

/// The same over TLS, of a server that shows a certificate of this authority.
///
/// # Errors
/// When no whole reply comes.
pub async fn send_to(
    authority: &Authority,
    method: Method,
    url: &str,
    headers: &[(&str, &str)],
) -> Result<Response<Bytes>> {
    let connector = HttpsConnectorBuilder::new()
        .with_tls_config(authority.client()?)
        .https_or_http()
        .enable_http1()
        .build();
    let client: Client<_, Full<Bytes>> = Client::builder(TokioExecutor::new()).build(connector);
    let mut request = Request::builder().method(method).uri(url);
    for (name, value) in headers {
        request = request.header(*name, *value);
    }
    whole(url, client.request(request.body(Full::default())?).await).await
}

/// A GET without headers.
///
/// # Errors
/// When no whole reply comes.
pub async fn get(url: &str) -> Result<Response<Bytes>> {
    send(Method::GET, url, &[], Bytes::new()).await
}

/// A GET whose body may break off: how many of its bytes arrived, and whether it ended as
/// announced.
///
/// # Errors
/// When there is no reply at all.
pub async fn arrived(url: &str) -> Result<(u64, bool)> {
    let client: Client<HttpConnector, Full<Bytes>> =
        Client::builder(TokioExecutor::new()).build_http();
    let mut body = client.get(url.parse()?).await?.into_body();
    let mut bytes = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => bytes += frame.data_ref().map_or(0, |data| data.len() as u64),
            Err(_) => return Ok((bytes, false)),
        }
    }
    Ok((bytes, true))
}
