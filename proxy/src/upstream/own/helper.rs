//! Credential helpers: programs that know a password.

use std::{process::Stdio, time::Duration};

use serde::Deserialize;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    process::Command,
};

use super::{Login, MOST, OwnError};
use crate::credential::Secret;

/// For a helper to answer.
pub(super) const TIMEOUT: Duration = Duration::from_secs(10);

/// What a helper has for a server, within [`TIMEOUT`].
///
/// <https://docs.docker.com/reference/cli/docker/login/#credential-helper-protocol>
pub(super) async fn ask(name: &str, server: &str) -> Result<Login, OwnError> {
    let wrong = |what| OwnError::Helper {
        name: name.to_owned(),
        what,
    };
    if !is_helper(name) {
        return Err(wrong("is no helper's name"));
    }
    let talk = async {
        let mut child = Command::new(format!("docker-credential-{name}"))
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|_| wrong("can't be started"))?;
        if let Some(mut input) = child.stdin.take() {
            // A helper that does not listen gives no answer either.
            let _ = input.write_all(server.as_bytes()).await;
        }
        let mut text = String::new();
        if let Some(output) = child.stdout.take() {
            let read = output.take(MOST).read_to_string(&mut text).await;
            read.map_err(|_| wrong("gives no text"))?;
        }
        let status = child
            .wait()
            .await
            .map_err(|_| wrong("can't be waited for"))?;
        match status.success() {
            true => Ok(text),
            false => Err(wrong("knows nothing of the registry, or fails")),
        }
    };
    let text = tokio::time::timeout(TIMEOUT, talk)
        .await
        .map_err(|_| wrong("does not answer"))??;
    let answer = answered(text.as_bytes()).ok_or_else(|| wrong("answers nonsense"))?;
    answer
        .login()
        .ok_or_else(|| wrong("answers what makes no header"))
}

/// Whether it can be one's name, and is no path.
pub(super) fn is_helper(name: &str) -> bool {
    let fits = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    !name.is_empty() && name.len() <= 64 && name.bytes().all(fits)
}

/// A credential helper's answer.
#[derive(Deserialize)]
pub(in crate::upstream) struct Answer {
    #[serde(rename = "Username")]
    username: String,
    #[serde(rename = "Secret")]
    secret: Secret,
}

/// What a helper says, if it is an answer.
pub(in crate::upstream) fn answered(text: &[u8]) -> Option<Answer> {
    serde_json::from_slice(text).ok()
}

impl Answer {
    pub(in crate::upstream) fn login(self) -> Option<Login> {
        match self.username.as_str() {
            "<token>" => Some(Login::Identity(self.secret)),
            name => Login::basic(name, self.secret.reveal()),
        }
    }
}
