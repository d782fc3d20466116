//! A caller with a name and a password, who does with challenges what clients do.

use anyhow::{Context as _, Result, ensure};
use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use http::{Method, Response};

use super::{Authority, SERVICE, Tokens};
use crate::http::send_to;

/// Of manifests that clients understand.
const MANIFESTS: &str = "application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.v2+json";

/// `Basic ..` of a user.
pub fn basic(user: &str, password: &str) -> String {
    format!("Basic {}", STANDARD.encode(format!("{user}:{password}")))
}

/// `Bearer ..`, as the token server gives it to a user, or to nobody in particular, who wants
/// to pull from a repository.
///
/// # Errors
/// When it gives none.
pub async fn bearer(
    authority: &Authority,
    tokens: &Tokens,
    user: Option<(&str, &str)>,
    repository: &str,
) -> Result<String> {
    let (realm, scope) = (tokens.realm(), repository.replace('/', "%2F"));
    let url = format!("{realm}?service={SERVICE}&scope=repository%3A{scope}%3Apull");
    let basic = user.map(|(name, password)| basic(name, password));
    let headers: Vec<(&str, &str)> = basic
        .iter()
        .map(|value| ("authorization", value.as_str()))
        .collect();
    let reply = send_to(authority, Method::GET, &url, &headers).await?;
    ensure!(reply.status() == 200, "{url}: {}", reply.status());
    let reply: serde_json::Value = serde_json::from_slice(reply.body())?;
    let token = reply["token"].as_str().context("a token")?;
    Ok(format!("Bearer {token}"))
}

/// Asks with this Authorization, or none.
///
/// # Errors
/// When no whole reply comes.
pub async fn ask(
    authority: &Authority,
    method: Method,
    url: &str,
    authorization: Option<&str>,
) -> Result<Response<Bytes>> {
    let mut headers = vec![("accept", MANIFESTS)];
    headers.extend(authorization.map(|value| ("authorization", value)));
    send_to(authority, method, url, &headers).await
}
