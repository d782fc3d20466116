//! Whom the authority has let in, and by which tokens others may come: files beside its key.
//!
//! Owner of state: `tokens/` and `members/` in the authority's directory, one small file
//! each, changed under a lock file, since `darter ca token` writes while `darter ca serve`
//! reads. A token is kept as the hash of its secret. A use is counted before the member is
//! written: a crash between the two costs a use and lets nobody in. Members renew without a
//! token for as long as their file is there.

use std::{
    fs::File,
    io,
    path::{Path, PathBuf},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use darter_api::HostId;
use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{Token, token::stored_name};
use crate::identity::write_private;

/// Tokens at the same time; those that have ended make room.
const MOST_TOKENS: usize = 1000;

/// A host is not let in, or the files can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RegisterError {
    /// It is no member and has no token.
    #[error("this host is no member, and it gave no token")]
    NoToken,
    /// There is no such token.
    #[error("the token is not one of this authority's")]
    UnknownToken,
    /// The token's time is over.
    #[error("the token has expired")]
    Expired,
    /// The token let in as many as it may.
    #[error("the token was used as often as it may be")]
    UsedUp,
    /// Too many tokens.
    #[error("there are {MOST_TOKENS} tokens already")]
    Full,
    /// A file can't be used.
    #[error("can't use {path}")]
    File {
        /// Which.
        path: PathBuf,
        /// Why.
        #[source]
        cause: io::Error,
    },
}

impl RegisterError {
    /// Whether the host is refused, and not the disk at fault.
    pub const fn is_refusal(&self) -> bool {
        !matches!(self, Self::File { .. })
    }
}

/// A token as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TokenRecord {
    /// Until when it lets hosts in, in seconds since 1970.
    pub expires: u64,
    /// How many more.
    pub uses: u32,
}

/// A member as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MemberRecord {
    /// When it came, in seconds since 1970.
    pub joined: u64,
    /// The first digits of the token's stored name.
    pub token: String,
}

/// See the module. Its calls block on small files.
#[derive(Debug, Clone)]
pub struct Register {
    dir: PathBuf,
}

impl Register {
    /// Of the authority in `dir`.
    pub fn new(dir: &Path) -> Self {
        let dir = dir.to_owned();
        Self { dir }
    }

    /// Lets `uses` hosts in by this token, for so long.
    ///
    /// # Errors
    /// When there are too many, or the files can't be written.
    pub fn add_token(&self, token: &Token, life: Duration, uses: u32) -> Result<(), RegisterError> {
        let _lock = self.lock()?;
        let now = seconds(SystemTime::now());
        let mut known = 0;
        for (name, record) in self.list::<TokenRecord>("tokens")? {
            if record.expires <= now || record.uses == 0 {
                let path = self.path("tokens", &name);
                std::fs::remove_file(&path).map_err(file(&path))?;
            } else {
                known += 1;
            }
        }
        if known >= MOST_TOKENS {
            return Err(RegisterError::Full);
        }
        let record = TokenRecord {
            expires: now.saturating_add(life.as_secs()),
            uses,
        };
        self.write("tokens", &stored_name(&token.secret()), &record)
    }

    /// A host may have a certificate: it is a member, or `secret` makes it one.
    ///
    /// # Errors
    /// Why not.
    pub fn admit(&self, host: &HostId, secret: Option<&str>) -> Result<(), RegisterError> {
        let _lock = self.lock()?;
        let name = host.to_string();
        if self.read::<MemberRecord>("members", &name)?.is_some() {
            return Ok(());
        }
        let token = stored_name(secret.ok_or(RegisterError::NoToken)?);
        let mut record: TokenRecord = self
            .read("tokens", &token)?
            .ok_or(RegisterError::UnknownToken)?;
        let now = seconds(SystemTime::now());
        if record.expires <= now {
            return Err(RegisterError::Expired);
        }
        record.uses = record.uses.checked_sub(1).ok_or(RegisterError::UsedUp)?;
        self.write("tokens", &token, &record)?;
        let member = MemberRecord {
            joined: now,
            token: token.chars().take(8).collect(),
        };
        self.write("members", &name, &member)
    }

    /// A host gets no more certificates; the one it has counts until its end. Whether it was
    /// a member.
    ///
    /// # Errors
    /// When the file can't be removed.
    pub fn remove(&self, host: &HostId) -> Result<bool, RegisterError> {
        let _lock = self.lock()?;
        let path = self.path("members", &host.to_string());
        match std::fs::remove_file(&path) {
            Ok(()) => Ok(true),
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(cause) => Err(file(&path)(cause)),
        }
    }

    /// All members, by name.
    ///
    /// # Errors
    /// When the files can't be read.
    pub fn members(&self) -> Result<Vec<(String, MemberRecord)>, RegisterError> {
        self.list("members")
    }

    /// All tokens, by stored name.
    ///
    /// # Errors
    /// When the files can't be read.
    pub fn tokens(&self) -> Result<Vec<(String, TokenRecord)>, RegisterError> {
        self.list("tokens")
    }

    fn path(&self, kind: &str, name: &str) -> PathBuf {
        self.dir.join(kind).join(format!("{name}.json"))
    }

    fn lock(&self) -> Result<File, RegisterError> {
        let path = self.dir.join("register.lock");
        let lock = File::create(&path).map_err(file(&path))?;
        flock(&lock, FlockOperation::LockExclusive).map_err(|cause| file(&path)(cause.into()))?;
        Ok(lock)
    }

    fn read<T: DeserializeOwned>(
        &self,
        kind: &str,
        name: &str,
    ) -> Result<Option<T>, RegisterError> {
        let path = self.path(kind, name);
        match std::fs::read(&path) {
            Ok(bytes) => {
                let read = serde_json::from_slice(&bytes);
                read.map(Some).map_err(|cause| file(&path)(cause.into()))
            }
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(cause) => Err(file(&path)(cause)),
        }
    }

    fn write<T: Serialize>(&self, kind: &str, name: &str, record: &T) -> Result<(), RegisterError> {
        let path = self.path(kind, name);
        let write = || {
            std::fs::create_dir_all(self.dir.join(kind))?;
            write_private(&path, &serde_json::to_vec(record)?)
        };
        write().map_err(file(&path))
    }

    fn list<T: DeserializeOwned>(&self, kind: &str) -> Result<Vec<(String, T)>, RegisterError> {
        let dir = self.dir.join(kind);
        let entries = match std::fs::read_dir(&dir) {
            Ok(entries) => entries,
            Err(cause) if cause.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(cause) => return Err(file(&dir)(cause)),
        };
        let mut found = Vec::new();
        for entry in entries {
            let name = entry.map_err(file(&dir))?.file_name();
            let name = name.to_str().and_then(|name| name.strip_suffix(".json"));
            if let Some(name) = name
                && let Some(record) = self.read(kind, name)?
            {
                found.push((name.to_owned(), record));
            }
        }
        found.sort_by(|(one, _), (other, _)| one.cmp(other));
        Ok(found)
    }
}

fn file(path: &Path) -> impl FnOnce(io::Error) -> RegisterError + use<> {
    let path = path.to_owned();
    move |cause| RegisterError::File { path, cause }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH)
        .map_or(0, |time| time.as_secs())
}

#[cfg(test)]
mod tests {
    use darter_api::NodeKey;

    use super::*;
    use crate::tls::Fingerprint;

    fn host(seed: u8) -> HostId {
        NodeKey::from_seed([seed; 32]).id()
    }

    #[test]
    fn tokens_let_in_as_many_as_they_may() {
        let dir = tempfile::tempdir().unwrap();
        let register = Register::new(dir.path());
        let token = Token::generate(Fingerprint::of(b""));
        let hour = Duration::from_secs(3600);
        register.add_token(&token, hour, 2).unwrap();
        let secret = token.secret();
        register.admit(&host(1), Some(&secret)).unwrap();
        register.admit(&host(1), Some(&secret)).unwrap();
        register.admit(&host(2), Some(&secret)).unwrap();
        let third = register.admit(&host(3), Some(&secret));
        assert!(matches!(third, Err(RegisterError::UsedUp)));
        // Members come back without one; others don't, and not with a made-up one.
        register.admit(&host(2), None).unwrap();
        assert!(matches!(
            register.admit(&host(3), None),
            Err(RegisterError::NoToken)
        ));
        assert!(matches!(
            register.admit(&host(3), Some("0123")),
            Err(RegisterError::UnknownToken)
        ));
        assert!(register.remove(&host(2)).unwrap());
        assert!(!register.remove(&host(2)).unwrap());
        assert!(register.admit(&host(2), None).is_err());
        assert_eq!(register.members().unwrap().len(), 1);

        let ended = Token::generate(Fingerprint::of(b""));
        register.add_token(&ended, Duration::ZERO, 1).unwrap();
        let late = register.admit(&host(3), Some(&ended.secret()));
        assert!(matches!(late, Err(RegisterError::Expired)));
        // Those that have ended make room, and no secret lies on the disk.
        register.add_token(&token, hour, 1).unwrap();
        let tokens = register.tokens().unwrap();
        assert_eq!(tokens.len(), 1, "{tokens:?}");
        assert!(!tokens[0].0.contains(&secret));
    }
}
