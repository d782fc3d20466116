//! Clients that the proxy lets in itself, where it shows registries credentials of its own.
//!
//! By name and password, from an htpasswd file, or by a token that it gave for these; without
//! such a file only clients on this host are let in. Owner of state: [`Clients`]: the file's
//! users, and which headers were right a moment ago, bounded. Invariant: without a right name
//! nobody on another host gets what the proxy's own credentials can read. Failure: a file that
//! can't be read any more leaves the users that it had.

#[cfg(any(test, fuzzing))]
pub(crate) mod fuzzing;
mod htpasswd;

use std::{
    net::IpAddr,
    path::PathBuf,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use aws_lc_rs::{hmac, rand::SystemRandom};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE_NO_PAD},
};
use darter_runtime::server::{CallerAddress, ClientAddress};
use http::Extensions;
use serde::{Deserialize, Serialize};

use crate::credential::Credential;
pub(crate) use htpasswd::MOST_GUESSES;
pub use htpasswd::UsersError;
use htpasswd::{NotNow, Users};

/// Of the tokens that it gives. They end with the process, too.
const TOKEN_LIFE: Duration = Duration::from_secs(300);
/// What its tokens begin with.
const TOKEN: &str = "darter.";

/// Who is let in to what the proxy's own credentials can read.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Options {
    /// An htpasswd file with bcrypt hashes (`htpasswd -B`), read anew when it changes. Default
    /// none: clients on this host that name it by an address or as localhost and whose requests
    /// no proxy in front has passed on (Forwarded, X-Forwarded-For, X-Real-IP, Via), and no
    /// others: no page in a browser here either. An address that showed 20 wrong passwords within
    /// a minute is answered 503 for its rest, whatever it shows.
    pub htpasswd: Option<PathBuf>,
}

/// How a client was let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// By name: its Authorization was for the proxy.
    ByName,
    /// It is on this host: its Authorization, if any, is for the registry.
    Local,
}

/// Why a client is not let in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Denied {
    /// It has to say who it is.
    Unknown,
    /// It is on another host, and nobody there is known.
    Remote,
    /// Too many say who they are at the same time.
    Busy,
    /// Too many wrong passwords came from its address within the last minute.
    Spent,
}

/// Where a client is.
#[derive(Debug, Clone, Copy)]
pub struct Whence {
    /// As far as that is known: what was passed on may come from anywhere.
    pub address: CallerAddress,
    /// The other end of its connection, whose wrong passwords count together.
    pub connection: IpAddr,
}

impl Whence {
    /// Of a request with these extensions.
    pub fn new(address: CallerAddress, extensions: &Extensions) -> Self {
        let connection = ClientAddress::ip_of(extensions);
        Self {
            address,
            connection,
        }
    }
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub struct Clients(Arc<Inner>);

struct Inner {
    users: Option<Users>,
    key: hmac::Key,
}

impl Clients {
    /// Those of the file, read now.
    ///
    /// # Errors
    /// What is wrong with the file.
    pub fn new(options: &Options) -> Result<Self, UsersError> {
        let users = options.htpasswd.as_deref().map(Users::load).transpose()?;
        let key = hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new());
        Ok(Self(Arc::new(Inner {
            users,
            key: key.expect("the system has random numbers"),
        })))
    }

    /// Whether clients have names here.
    pub fn have_names(&self) -> bool {
        self.0.users.is_some()
    }

    /// Whether this client is let in. Cancel-safe.
    ///
    /// # Errors
    /// Why not.
    pub async fn admit(
        &self,
        shown: Option<&Credential>,
        whence: Whence,
    ) -> Result<Admitted, Denied> {
        let Some(users) = &self.0.users else {
            return if whence.address.is_here() {
                Ok(Admitted::Local)
            } else {
                Err(Denied::Remote)
            };
        };
        let shown = shown.ok_or(Denied::Unknown)?;
        let text = shown.header().to_str().map_err(|_| Denied::Unknown)?;
        let is_known = match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                let name = self.name_of(token, SystemTime::now());
                name.is_some_and(|name| users.has(&name))
            }
            Some((scheme, pair)) if scheme.eq_ignore_ascii_case("basic") => match pair_of(pair) {
                Some((name, password)) => {
                    let shown = shown.fingerprint();
                    let admitted = users.admit(shown, name, password, whence.connection);
                    admitted.await.map_err(|not_now| match not_now {
                        NotNow::Busy => Denied::Busy,
                        NotNow::Spent => Denied::Spent,
                    })?
                }
                None => false,
            },
            _ => false,
        };
        if is_known {
            Ok(Admitted::ByName)
        } else {
            Err(Denied::Unknown)
        }
    }

    /// Whether this is meant for the proxy and not for a registry: one of its tokens, whether or
    /// not it still works, or a name that is known here, whatever the password is.
    pub fn is_ours(&self, shown: &Credential) -> bool {
        let text = shown.header().to_str().unwrap_or_default();
        match text.split_once(' ') {
            Some((scheme, token)) if scheme.eq_ignore_ascii_case("bearer") => {
                token.trim_start().starts_with(TOKEN)
            }
            Some((scheme, pair)) if scheme.eq_ignore_ascii_case("basic") => {
                let users = self.0.users.as_ref();
                users
                    .zip(pair_of(pair))
                    .is_some_and(|(users, (name, _))| users.has(&name))
            }
            _ => false,
        }
    }

    /// A token for who has just been admitted by this header, and how long it works; `None` for
    /// anything but a name and a password.
    pub fn token(&self, shown: &Credential) -> Option<(String, Duration)> {
        let pair = shown.header().to_str().ok()?.split_once(' ')?.1;
        let (name, _) = pair_of(pair)?;
        let until = SystemTime::now() + TOKEN_LIFE;
        let until = until.duration_since(UNIX_EPOCH).ok()?.as_secs();
        let said = format!("{until}.{}", URL_SAFE_NO_PAD.encode(name));
        let tag = hmac::sign(&self.0.key, said.as_bytes());
        let tag = URL_SAFE_NO_PAD.encode(tag);
        Some((format!("{TOKEN}{said}.{tag}"), TOKEN_LIFE))
    }

    /// Whose token this is, if it is one and still works.
    fn name_of(&self, token: &str, now: SystemTime) -> Option<String> {
        let (said, tag) = token.strip_prefix(TOKEN)?.rsplit_once('.')?;
        let tag = URL_SAFE_NO_PAD.decode(tag).ok()?;
        hmac::verify(&self.0.key, said.as_bytes(), &tag).ok()?;
        let (until, name) = said.split_once('.')?;
        let until = UNIX_EPOCH + Duration::from_secs(until.parse().ok()?);
        let name = String::from_utf8(URL_SAFE_NO_PAD.decode(name).ok()?).ok()?;
        (now < until).then_some(name)
    }
}

/// `name:password`, from its Base64.
fn pair_of(encoded: &str) -> Option<(String, String)> {
    let text = String::from_utf8(STANDARD.decode(encoded.trim()).ok()?).ok()?;
    let (name, password) = text.split_once(':')?;
    (!name.is_empty()).then(|| (name.to_owned(), password.to_owned()))
}

#[cfg(test)]
mod tests {
    use http::HeaderValue;

    use super::*;

    fn at(address: Option<IpAddr>) -> Whence {
        Whence::new(CallerAddress(address), &Extensions::new())
    }

    fn shown(text: &str) -> Credential {
        Credential::new(HeaderValue::try_from(text).unwrap())
    }

    fn basic(pair: &str) -> Credential {
        shown(&format!("Basic {}", STANDARD.encode(pair)))
    }

    fn with_users(dir: &std::path::Path, users: &[(&str, &str)]) -> Clients {
        let path = dir.join("htpasswd");
        let lines = users
            .iter()
            .map(|(name, password)| format!("{name}:{}\n", bcrypt::hash(password, 4).unwrap()));
        std::fs::write(&path, lines.collect::<String>()).unwrap();
        let htpasswd = Some(path);
        Clients::new(&Options { htpasswd }).unwrap()
    }

    #[tokio::test]
    async fn without_names_only_this_host_is_let_in() {
        let clients = Clients::new(&Options::default()).unwrap();
        let admit = |address: Option<&str>| {
            let whence = at(address.map(|text| text.parse().unwrap()));
            let clients = clients.clone();
            async move { clients.admit(Some(&basic("me:pw")), whence).await }
        };
        for here in ["127.0.0.1", "::1", "::ffff:127.0.0.1"] {
            assert_eq!(admit(Some(here)).await, Ok(Admitted::Local), "{here}");
        }
        assert_eq!(admit(Some("10.0.0.1")).await, Err(Denied::Remote));
        assert_eq!(admit(None).await, Err(Denied::Remote));
    }

    #[tokio::test]
    async fn names_passwords_and_tokens_for_them() {
        let dir = tempfile::tempdir().unwrap();
        let clients = with_users(dir.path(), &[("me", "right"), ("you", "yours")]);
        let local = at(Some(IpAddr::from([127, 0, 0, 1])));
        let nowhere = at(None);
        let right = basic("me:right");
        for _ in 0..2 {
            assert_eq!(
                clients.admit(Some(&right), nowhere).await,
                Ok(Admitted::ByName)
            );
        }
        for wrong in [
            "me:wrong",
            "you:right",
            "nobody:right",
            "me",
            ":",
            "",
            ":right",
        ] {
            let admitted = clients.admit(Some(&basic(wrong)), local).await;
            assert_eq!(admitted, Err(Denied::Unknown), "{wrong}");
        }
        assert_eq!(clients.admit(None, local).await, Err(Denied::Unknown));

        let (token, _) = clients.token(&right).unwrap();
        let bearer = |token: &str| shown(&format!("Bearer {token}"));
        assert_eq!(
            clients.admit(Some(&bearer(&token)), nowhere).await,
            Ok(Admitted::ByName)
        );
        let later = SystemTime::now() + TOKEN_LIFE;
        assert_eq!(clients.name_of(&token, later), None);
        let other = with_users(&dir.path().join(""), &[("me", "right")]);
        let forged = token.replacen("darter.", "darter.9", 1);
        for wrong in [forged.as_str(), "darter.", "darter.1.2", "x"] {
            assert_eq!(
                clients.admit(Some(&bearer(wrong)), local).await,
                Err(Denied::Unknown)
            );
        }
        // Another process has another key.
        assert_eq!(
            other.admit(Some(&bearer(&token)), local).await,
            Err(Denied::Unknown)
        );
    }
}
