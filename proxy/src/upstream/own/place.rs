//! Where the proxy's own credentials are, and reading them there.

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use tokio::io::AsyncReadExt as _;

use super::{
    Login, MOST, OwnError,
    docker::{Found, in_docker_config},
    header, helper,
};

/// A file's content is believed so long.
pub(super) const FILE_LIFE: Duration = Duration::from_secs(5);
/// A helper's answer is: it may cost a question to a cloud.
const HELPER_LIFE: Duration = Duration::from_secs(300);

/// Where the credentials are.
#[derive(Debug)]
pub(super) enum Place {
    Said(Login),
    Password(String, PathBuf),
    Token(PathBuf),
    Docker(PathBuf),
    Helper(String),
}

/// Where it is read from.
#[derive(Debug)]
pub(super) struct OwnOrigin {
    pub(super) place: Place,
    /// How Docker's configuration and helpers call the upstream.
    pub(super) names: Vec<String>,
}

impl OwnOrigin {
    /// Reads it anew; for how long it is believed.
    pub(super) async fn read(&self) -> Result<(Login, Duration), OwnError> {
        let nothing = |path: &Path| OwnError::Nothing {
            path: path.to_owned(),
            server: self.server().to_owned(),
        };
        match &self.place {
            Place::Said(login) => Ok((login.clone(), HELPER_LIFE)),
            Place::Password(name, path) => {
                let password = file(path).await?;
                let login = Login::basic(name, password.trim_end_matches(['\r', '\n']));
                Ok((login.ok_or_else(|| nothing(path))?, FILE_LIFE))
            }
            Place::Token(path) => {
                let token = header("Bearer", file(path).await?.trim());
                let token = token.ok_or_else(|| nothing(path))?;
                Ok((Login::Bearer(token), FILE_LIFE))
            }
            Place::Docker(path) => {
                let text = file(path).await?;
                let found = in_docker_config(text.as_bytes(), &self.names);
                match found.ok_or_else(|| nothing(path))? {
                    Found::Login(login) => Ok((login, FILE_LIFE)),
                    Found::Helper(name) => {
                        Ok((helper::ask(&name, self.server()).await?, HELPER_LIFE))
                    }
                }
            }
            Place::Helper(name) => Ok((helper::ask(name, self.server()).await?, HELPER_LIFE)),
        }
    }

    fn server(&self) -> &str {
        match self.names.first().map(String::as_str) {
            Some("docker.io") => "https://index.docker.io/v1/",
            Some(name) => name,
            None => "",
        }
    }
}

async fn file(path: &Path) -> Result<String, OwnError> {
    let wrong = |cause| OwnError::File {
        path: path.to_owned(),
        cause,
    };
    let opened = tokio::fs::File::open(path).await.map_err(wrong)?;
    let mut text = String::new();
    let read = opened.take(MOST).read_to_string(&mut text).await;
    read.map_err(wrong)?;
    Ok(text)
}
