//! Where a task's bytes come from in the first place.

use std::{fmt, str::FromStr, sync::Arc};

/// A registry as clients name it: `docker.io`, `registry.example.com:5000`.
///
/// A name, never an address: what is dialled is looked up in configuration.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct UpstreamName(Arc<str>);

/// A repository of a registry: `library/alpine`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Repository(Arc<str>);

/// Why a name is refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// No registry can have this name.
    #[error("an upstream is named `host` or `host:port`, in lower case")]
    Upstream,
    /// The repository breaks the distribution specification's grammar.
    #[error("a repository name is lower-case path components, at most 255 characters in all")]
    Repository,
}

impl UpstreamName {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl Repository {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UpstreamName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let (host, port) = match text.rsplit_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (text, None),
        };
        let host_ok = !host.is_empty()
            && host.len() <= 253
            && host.split('.').all(|label| {
                !label.is_empty()
                    && !label.starts_with('-')
                    && !label.ends_with('-')
                    && label
                        .bytes()
                        .all(|b| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_'))
            });
        let port_ok = port.is_none_or(|p| {
            p.bytes().all(|b| b.is_ascii_digit()) && p.parse::<u16>().is_ok_and(|p| p > 0)
        });
        if host_ok && port_ok {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Upstream)
        }
    }
}

impl FromStr for Repository {
    type Err = NameError;

    /// The grammar of the distribution specification:
    /// `[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*(\/[a-z0-9]+((\.|_|__|-+)[a-z0-9]+)*)*`
    ///
    /// <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#pulling-manifests>
    fn from_str(text: &str) -> Result<Self, NameError> {
        let valid = !text.is_empty() && text.len() <= 255 && text.split('/').all(is_path_component);
        if valid {
            Ok(Self(text.into()))
        } else {
            Err(NameError::Repository)
        }
    }
}

fn is_path_component(component: &str) -> bool {
    let mut separator = String::new();
    let mut last_was_word = false;
    for b in component.chars() {
        match b {
            'a'..='z' | '0'..='9' => {
                let joined = separator.is_empty()
                    || matches!(separator.as_str(), "." | "_" | "__")
                    || separator.bytes().all(|b| b == b'-');
                if !joined {
                    return false;
                }
                separator.clear();
                last_was_word = true;
            }
            '.' | '_' | '-' if last_was_word => separator.push(b),
            _ => return false,
        }
    }
    last_was_word && separator.is_empty()
}

macro_rules! text_form {
    ($name:ident) => {
        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
    };
}
text_form!(UpstreamName);
text_form!(Repository);

/// What kind of content a registry holds under a digest.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum OriginKind {
    /// `/v2/<repository>/blobs/<digest>`
    Blob,
    /// `/v2/<repository>/manifests/<digest>`
    Manifest,
}

/// A place at a registry where a task's content can be read.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Origin {
    /// The registry.
    pub upstream: UpstreamName,
    /// The repository in it.
    pub repository: Repository,
    /// Which endpoint of it.
    pub kind: OriginKind,
    /// Whether an anonymous request can't read the repository, as far as is known.
    pub private: bool,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn repository_grammar() {
        for good in ["a", "library/alpine", "a.b/c_d/e__f/g---h", "0/1"] {
            assert!(good.parse::<Repository>().is_ok(), "{good}");
        }
        let long = "a".repeat(256);
        for bad in [
            "", "/", "a/", "/a", "A", "a//b", "..", "a/..", "a/../b", ".a", "a.", "a..b", "a___b",
            "a._b", "a%2f", "a b", "-a", "a-", &long,
        ] {
            assert!(bad.parse::<Repository>().is_err(), "{bad}");
        }
    }

    #[test]
    fn upstream_grammar() {
        for good in [
            "docker.io",
            "localhost:5000",
            "10.0.0.1:80",
            "registry_1.x-y.z",
        ] {
            assert!(good.parse::<UpstreamName>().is_ok(), "{good}");
        }
        for bad in [
            "",
            ":",
            "a:",
            "a:0",
            "a:99999",
            "a:+1",
            "user@host",
            "http://x",
            "a/b",
            "A.io",
            "a..b",
            "-a",
            "[::1]:80",
            "a b",
            "a?b",
        ] {
            assert!(bad.parse::<UpstreamName>().is_err(), "{bad}");
        }
    }
}
