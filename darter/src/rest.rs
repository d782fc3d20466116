//! A manager's REST, as commands ask it.

use std::{fs, path::PathBuf, time::Duration};

use anyhow::{Context as _, Result, bail};
use bytes::Bytes;
use clap::Args;
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::{Method, Request, header};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::de::DeserializeOwned;

use crate::config::{MANAGER_TOKEN_FILE, MANAGER_URL};

/// A manager that does not answer for so long is gone.
const PATIENCE: Duration = Duration::from_secs(30);
/// Of a reply.
const MOST_REPLY: usize = 64 * 1024 * 1024;

/// Which manager, and what is shown to it.
#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The manager's REST.
    #[arg(
        long,
        global = true,
        value_name = "URL",
        env = MANAGER_URL,
        default_value = "http://127.0.0.1:8080"
    )]
    manager: String,
    /// A file with a token of the manager; without one it has to be this host's, or let anybody.
    #[arg(
        long,
        global = true,
        value_name = "FILE",
        env = MANAGER_TOKEN_FILE
    )]
    token_file: Option<PathBuf>,
}

/// A secret's file, without the break at its end.
pub(crate) fn read(file: Option<&PathBuf>) -> Result<Option<String>> {
    let Some(file) = file else { return Ok(None) };
    let text = fs::read_to_string(file).with_context(|| file.display().to_string())?;
    Ok(Some(text.trim_end_matches(['\r', '\n']).to_owned()))
}

/// See the module.
pub(crate) struct Manager {
    url: String,
    token: Option<String>,
    client: Client<HttpConnector, Full<Bytes>>,
}

impl Manager {
    pub(crate) fn new(place: &Place) -> Result<Self> {
        Ok(Self {
            url: place.manager.trim_end_matches('/').to_owned(),
            token: read(place.token_file.as_ref())?,
            client: Client::builder(TokioExecutor::new()).build_http(),
        })
    }

    /// What it answers, if that is what was asked for.
    pub(crate) async fn ask<T: DeserializeOwned>(
        &self,
        method: Method,
        path: &str,
        body: Bytes,
    ) -> Result<T> {
        let url = format!("{}{path}", self.url);
        let mut request = Request::builder()
            .method(method)
            .uri(&url)
            .header(header::CONTENT_TYPE, "application/json");
        if let Some(token) = &self.token {
            request = request.header(header::AUTHORIZATION, format!("Bearer {token}"));
        }
        let request = request.body(Full::new(body))?;
        let reply = tokio::time::timeout(PATIENCE, self.client.request(request)).await;
        let reply = reply
            .with_context(|| format!("{url}: no answer"))?
            .with_context(|| format!("the manager at {url} can't be asked"))?;
        let status = reply.status();
        let body = Limited::new(reply.into_body(), MOST_REPLY).collect();
        let body = tokio::time::timeout(PATIENCE, body).await?;
        let body = body
            .map_err(|cause| anyhow::anyhow!("{url}: {cause}"))?
            .to_bytes();
        if !status.is_success() {
            let problem: serde_json::Value = serde_json::from_slice(&body).unwrap_or_default();
            let why = problem["detail"].as_str().unwrap_or("no reason given");
            bail!("the manager answers {status}: {why}");
        }
        Ok(serde_json::from_slice(&body)?)
    }
}
