//! Which downloads go into the swarm.

use std::{net::IpAddr, path::PathBuf};

use http::{Uri, uri::Scheme};
use ipnet::IpNet;
use regex::Regex;
use serde::{Deserialize, Serialize};

use super::client::Client;
use crate::upstream::is_public;

/// One rule: files of these hosts and paths are shared.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct RuleOptions {
    /// A regular expression that all of a host matches, in lower case, with its port where that
    /// is not the scheme's own: `(dl|cdn)\.example\.com`. Whatever path is asked of such a host is
    /// passed on.
    pub host: String,
    /// A regular expression that all of a path matches, as it is written in the URL:
    /// `/dist/.*\.(iso|tar\.gz)`. Default: none does.
    pub path: String,
    /// Ranges of private addresses that the hosts may have; public ones they may always have.
    /// Default none.
    pub private: Vec<IpNet>,
    /// Parameters of the query that say nothing of the content, as signatures do. Default none.
    pub ignore_query: Vec<String>,
    /// Whether a CONNECT to such a host is opened under the interception's CA, which its clients
    /// have to trust, so that the rule holds for what they get by `https://` as well. Default
    /// false: such a CONNECT is one to an unlisted host.
    pub https: bool,
    /// A PEM file with authorities beside the system's, for `https`. Default none.
    pub ca: Option<PathBuf>,
}

/// A rule is none.
#[derive(Debug, thiserror::Error)]
pub enum RuleError {
    /// A pattern is none.
    #[error("the rule for `{host}`: `{key}` is no regular expression")]
    Pattern {
        /// Its `host`, as it was written.
        host: String,
        /// Which of its keys.
        key: &'static str,
        /// What is wrong with it.
        #[source]
        cause: Box<regex::Error>,
    },
    /// Its hosts can't be spoken to over TLS.
    #[error("the rule for `{host}`: {what}")]
    Tls {
        /// Its `host`, as it was written.
        host: String,
        /// What is wrong, with its authorities most often.
        what: String,
    },
}

/// A rule that is in force.
pub(super) struct Rule {
    host: Regex,
    path: Regex,
    private: Vec<IpNet>,
    ignore_query: Vec<String>,
    https: bool,
    pub(super) client: Client,
}

impl Rule {
    pub(super) fn new(options: &RuleOptions) -> Result<Self, RuleError> {
        let whole = |key, text: &str| {
            // The text by itself first: `a)|(b` would be one only inside the group.
            let compiled = Regex::new(text).and_then(|_| Regex::new(&format!("^(?:{text})$")));
            compiled.map_err(|cause| RuleError::Pattern {
                host: options.host.clone(),
                key,
                cause: Box::new(cause),
            })
        };
        let client = Client::new(&options.private, options.ca.as_deref());
        let wrong = |what| RuleError::Tls {
            host: options.host.clone(),
            what,
        };
        Ok(Self {
            host: whole("host", &options.host)?,
            path: whole("path", &options.path)?,
            private: options.private.clone(),
            ignore_query: options.ignore_query.clone(),
            https: options.https,
            client: client.map_err(wrong)?,
        })
    }

    pub(super) fn has_scheme(&self, scheme: &Scheme) -> bool {
        self.https || *scheme == Scheme::HTTP
    }

    /// Whether a host, with its port where that is not the scheme's own, is one of the rule's.
    pub(super) fn has_host(&self, host: &str) -> bool {
        let permitted = address(host).is_none_or(|address| is_permitted(address, &self.private));
        permitted && self.host.is_match(host)
    }

    pub(super) fn has_path(&self, path: &str) -> bool {
        self.path.is_match(path)
    }

    /// What of a URL tells its content from others'.
    pub(super) fn place_of(&self, url: &Uri) -> String {
        let query = url.query().unwrap_or_default();
        let kept = query.split('&').filter(|pair| {
            let name = pair.split('=').next().unwrap_or_default();
            !pair.is_empty() && !self.ignore_query.iter().any(|ignored| ignored == name)
        });
        let kept: Vec<&str> = kept.collect();
        let scheme = url.scheme_str().unwrap_or_default();
        let authority = url.authority().map_or("", |authority| authority.as_str());
        format!("{scheme}://{authority}{}?{}", url.path(), kept.join("&"))
    }
}

/// The address that a host is, if it is no name: nobody resolves it, and so checks it, later.
fn address(host: &str) -> Option<IpAddr> {
    let bare = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next(),
        None => host.split(':').next(),
    };
    bare?.parse().ok()
}

/// Whether a rule's host may have this address.
pub(super) fn is_permitted(address: IpAddr, private: &[IpNet]) -> bool {
    let address = address.to_canonical();
    is_public(address) || private.iter().any(|range| range.contains(&address))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rule(host: &str, path: &str, private: &[&str]) -> Result<Rule, RuleError> {
        Rule::new(&RuleOptions {
            host: host.to_owned(),
            path: path.to_owned(),
            private: private.iter().map(|range| range.parse().unwrap()).collect(),
            ignore_query: vec!["sig".to_owned()],
            ..RuleOptions::default()
        })
    }

    #[test]
    fn hosts_and_paths_match_as_wholes() {
        let rule = rule(r"(dl|cdn)\.example\.com", r"/dist/.*\.iso", &[]).unwrap();
        assert!(rule.has_host("dl.example.com") && rule.has_host("cdn.example.com"));
        for other in [
            "dl.example.com:8080",
            "xdl.example.com",
            "dl.example.com.evil.org",
            "dlxexample.com",
            "dl.example.com\nx",
        ] {
            assert!(!rule.has_host(other), "{other:?}");
        }
        assert!(rule.has_path("/dist/a/b.iso"));
        assert!(!rule.has_path("/x/dist/b.iso") && !rule.has_path("/dist/b.iso.sig"));
    }

    #[test]
    fn private_addresses_have_to_be_listed() {
        let any = rule(".*", ".*", &["10.1.0.0/16"]).unwrap();
        for (host, there) in [
            ("10.1.2.3:8000", true),
            ("10.2.0.1", false),
            ("127.0.0.1", false),
            ("169.254.169.254", false),
            ("[::1]", false),
            ("[::1]:8000", false),
            ("[::ffff:10.2.0.1]:80", false),
            ("[2606:4700::1111]:81", true),
            ("1.1.1.1", true),
            ("name", true),
        ] {
            assert_eq!(any.has_host(host), there, "{host}");
        }
    }

    #[test]
    fn mistakes_are_said() {
        let mistake = |host, path| rule(host, path, &[]).err().map(|error| error.to_string());
        let said = mistake("a)|(b", "").unwrap();
        assert!(said.contains("`host` is no regular"), "{said}");
        let said = mistake("a", "(").unwrap();
        assert!(said.contains("`path` is no regular"), "{said}");
        let no_ca = Rule::new(&RuleOptions {
            host: "dl".to_owned(),
            ca: Some("/nowhere/ca.pem".into()),
            ..RuleOptions::default()
        });
        let said = no_ca.err().unwrap().to_string();
        assert!(
            said.contains("`dl`") && said.contains("/nowhere/ca.pem"),
            "{said}"
        );
        let nothing = rule("h", "", &[]).unwrap();
        assert!(!nothing.has_path("/") && !nothing.has_path("/a"));
    }

    #[test]
    fn what_a_signature_changes_is_nothing() {
        let rule = rule("h", ".*", &[]).unwrap();
        let place = |url: &str| rule.place_of(&url.parse().unwrap());
        assert_eq!(place("http://h/a?v=1&sig=x"), place("http://h/a?sig=y&v=1"));
        assert_ne!(place("http://h/a?v=1"), place("http://h/a?v=2"));
        assert_ne!(place("http://h/a?v=1"), place("http://h:81/a?v=1"));
        assert_ne!(place("http://h/a?v=1"), place("https://h/a?v=1"));
    }
}
