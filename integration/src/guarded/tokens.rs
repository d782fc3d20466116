//! A token server: who may read which repository, told in signed tokens that expire.
//!
//! <https://distribution.github.io/distribution/spec/auth/jwt/>

use std::{
    collections::{BTreeMap, BTreeSet},
    path::PathBuf,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context as _, Result};
use aws_lc_rs::{
    rand::SystemRandom,
    signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair},
};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use serde_json::json;

use super::{Authority, Body, Identity, Server, full};
use crate::secrets;

/// What the registry's tokens are for.
pub const SERVICE: &str = "guarded";
/// What distribution grants a token past its expiry.
const LEEWAY: u64 = 60;

/// Who may what, and what was given.
#[derive(Debug, Default)]
struct State {
    passwords: BTreeMap<String, String>,
    /// Repositories by user; those of nobody in particular are everybody's.
    readable: BTreeMap<Option<String>, BTreeSet<String>>,
    issued: Vec<Issued>,
    refused: usize,
}

#[derive(Debug, Clone)]
struct Issued {
    token: String,
    user: Option<String>,
    repositories: Vec<String>,
    until: SystemTime,
}

struct Signer {
    key: EcdsaKeyPair,
    x5c: String,
}

/// The running token server. Cheap to clone.
#[derive(Clone)]
pub struct Tokens(Arc<Inner>);

struct Inner {
    state: Arc<Mutex<State>>,
    server: Server,
    root: PathBuf,
}

impl Tokens {
    /// Who signs them.
    pub(crate) const ISSUER: &'static str = "darter-tests";

    /// One behind a certificate of `authority`, whose tokens live for `life`.
    ///
    /// # Errors
    /// When it can't listen.
    pub async fn start(authority: &Authority, life: Duration) -> Result<Self> {
        let identity = authority.issue("tokens")?;
        let signer = Signer::new(&identity)?;
        let state = Arc::new(Mutex::new(State::default()));
        let shared = Arc::clone(&state);
        let tls = authority.server(&identity, false)?;
        let server = Server::start(Some(tls), move |request| {
            answer(&mut lock(&shared), &signer, life, &request)
        });
        Ok(Self(Arc::new(Inner {
            state,
            server: server.await?,
            root: authority.file(),
        })))
    }

    /// Where tokens are asked for.
    pub fn realm(&self) -> String {
        format!("{}/token", self.0.server.url())
    }

    /// `localhost:<port>`
    pub fn authority(&self) -> String {
        self.0.server.authority()
    }

    /// The file with the certificate that signs for its key's.
    pub(crate) fn root(&self) -> PathBuf {
        self.0.root.clone()
    }

    /// Lets a user in.
    pub fn user(&self, name: &str, password: &str) {
        secrets::keep(password);
        secrets::keep(&format!("{name}:{password}"));
        lock(&self.0.state)
            .passwords
            .insert(name.to_owned(), password.to_owned());
    }

    /// Lets a user, or anybody, read a repository.
    pub fn allow(&self, user: Option<&str>, repository: &str) {
        lock(&self.0.state)
            .readable
            .entry(user.map(str::to_owned))
            .or_default()
            .insert(repository.to_owned());
    }

    /// Takes that back, for tokens that are given from now on.
    pub fn forbid(&self, user: Option<&str>, repository: &str) {
        if let Some(all) = lock(&self.0.state)
            .readable
            .get_mut(&user.map(str::to_owned))
        {
            all.remove(repository);
        }
    }

    /// Tokens given, to a user or to nobody in particular.
    pub fn issued(&self, user: Option<&str>) -> usize {
        let state = lock(&self.0.state);
        let of_user = state
            .issued
            .iter()
            .filter(|one| one.user.as_deref() == user);
        of_user.count()
    }

    /// Wrong passwords.
    pub fn refused(&self) -> usize {
        lock(&self.0.state).refused
    }

    /// Everything that must be in no log.
    pub fn secrets(&self) -> Vec<String> {
        let state = lock(&self.0.state);
        let mut secrets: Vec<String> = state.passwords.values().cloned().collect();
        for (user, password) in &state.passwords {
            secrets.push(STANDARD.encode(format!("{user}:{password}")));
        }
        // A token's signature is its own.
        let signatures = state
            .issued
            .iter()
            .filter_map(|one| one.token.rsplit('.').next());
        secrets.extend(signatures.map(str::to_owned));
        secrets
    }

    /// Whether a token is one of its own, for this repository, and lives.
    pub fn admits(&self, authorization: Option<&str>, repository: &str) -> bool {
        let token = authorization.and_then(|text| text.strip_prefix("Bearer "));
        let state = lock(&self.0.state);
        token.is_some_and(|token| {
            state.issued.iter().any(|one| {
                one.token == token
                    && one.repositories.iter().any(|name| name == repository)
                    && SystemTime::now() < one.until
            })
        })
    }
}

fn lock(state: &Mutex<State>) -> MutexGuard<'_, State> {
    state.lock().unwrap_or_else(PoisonError::into_inner)
}

fn answer(
    state: &mut State,
    signer: &Signer,
    life: Duration,
    request: &Request<Bytes>,
) -> Response<Body> {
    // Clients that try OAuth first then ask by GET.
    if request.method() != Method::GET {
        return status(StatusCode::METHOD_NOT_ALLOWED);
    }
    let user = match request.headers().get(header::AUTHORIZATION) {
        None => None,
        Some(value) => match known(state, value.to_str().unwrap_or_default()) {
            Some(user) => Some(user),
            None => {
                state.refused += 1;
                return status(StatusCode::UNAUTHORIZED);
            }
        },
    };
    let asked = scopes(request.uri().query().unwrap_or_default());
    let repositories: Vec<String> = asked
        .into_iter()
        .filter(|name| state.may(None, name) || user.is_some() && state.may(user.as_deref(), name))
        .collect();
    let Ok(token) = signer.token(user.as_deref(), &repositories, life) else {
        return status(StatusCode::INTERNAL_SERVER_ERROR);
    };
    // A token's signature is its own.
    secrets::keep(token.rsplit('.').next().unwrap_or_default());
    let body = json!({"token": token, "expires_in": life.as_secs()}).to_string();
    state.issued.push(Issued {
        token,
        user,
        repositories,
        until: SystemTime::now() + life,
    });
    Response::new(full(body))
}

impl State {
    fn may(&self, user: Option<&str>, repository: &str) -> bool {
        let readable = self.readable.get(&user.map(str::to_owned));
        readable.is_some_and(|all| all.contains(repository))
    }
}

/// The user that `Basic ..` stands for.
fn known(state: &State, authorization: &str) -> Option<String> {
    let encoded = authorization.strip_prefix("Basic ")?;
    let text = String::from_utf8(STANDARD.decode(encoded).ok()?).ok()?;
    let (user, password) = text.split_once(':')?;
    (state.passwords.get(user)? == password).then(|| user.to_owned())
}

/// The repositories of all `scope=repository:<name>:pull`.
fn scopes(query: &str) -> Vec<String> {
    let pairs = query.split('&').filter_map(|pair| pair.split_once('='));
    let scopes = pairs.filter(|(key, _)| *key == "scope");
    scopes
        .filter_map(|(_, value)| {
            let value = value.replace("%3A", ":").replace("%2F", "/");
            let (name, actions) = value.strip_prefix("repository:")?.rsplit_once(':')?;
            actions.contains("pull").then(|| name.to_owned())
        })
        .collect()
}

fn status(status: StatusCode) -> Response<Body> {
    let mut response = Response::new(full("{}"));
    *response.status_mut() = status;
    response
}

impl Signer {
    fn new(identity: &Identity) -> Result<Self> {
        let pkcs8 = identity.key_der.secret_der();
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pkcs8)
            .ok()
            .context("a key for ES256")?;
        Ok(Self {
            key,
            x5c: STANDARD.encode(&identity.der),
        })
    }

    fn token(&self, user: Option<&str>, repositories: &[String], life: Duration) -> Result<String> {
        let now = SystemTime::now().duration_since(UNIX_EPOCH)?.as_secs();
        let access: Vec<_> = repositories
            .iter()
            .map(|name| json!({"type": "repository", "name": name, "actions": ["pull"]}))
            .collect();
        let header = json!({"typ": "JWT", "alg": "ES256", "x5c": [self.x5c]});
        let claims = json!({
            "iss": Tokens::ISSUER, "sub": user.unwrap_or_default(), "aud": SERVICE,
            // So that the registry takes it for just so long.
            "exp": now + life.as_secs() - LEEWAY, "nbf": now - 2 * LEEWAY, "iat": now,
            "jti": format!("{:016x}", rand::random::<u64>()), "access": access,
        });
        let encode = |value: &serde_json::Value| URL_SAFE_NO_PAD.encode(value.to_string());
        let signed = format!("{}.{}", encode(&header), encode(&claims));
        let signature = self
            .key
            .sign(&SystemRandom::new(), signed.as_bytes())
            .ok()
            .context("signing")?;
        Ok(format!("{signed}.{}", URL_SAFE_NO_PAD.encode(signature)))
    }
}
