//! Keys and certificates on this node's disk.

use std::{
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use darter_proxy::intercept;
use darter_runtime::tls::{self, Certificate};

use super::finding::Finding;
use crate::config::Config;

const CHECK: &str = "trust";
/// An interception CA that ends within so long should be replaced while there is time.
const SOON: Duration = Duration::from_secs(30 * 24 * 3600);

pub(super) fn check(config: &Config) -> Vec<Finding> {
    let mut findings = Vec::new();
    if config.proxy.intercept.enabled {
        findings.push(interception(config));
        findings.extend(config.proxy.intercept.users.as_deref().map(users));
    }
    findings.extend(membership(config));
    findings
}

/// The CA that clients of the HTTP proxy trust.
fn interception(config: &Config) -> Finding {
    let proxy = &config.proxy;
    let facts = match intercept::inspect(&proxy.intercept, &proxy.data) {
        Ok(Some(facts)) => facts,
        Ok(None) => {
            let found = "the interception's CA is made at the first start";
            return Finding::ok(CHECK, found);
        }
        Err(cause) => {
            return Finding::wrong(
                CHECK,
                words(&cause),
                "bring the right file back, or remove ca.crt and ca.key to have both made anew (clients then have to trust the new one)",
            );
        }
    };
    let shown = facts.certificate.display();
    if facts.is_key_open {
        let key = facts.key.display();
        return Finding::wrong(
            CHECK,
            format!("others can read {key}: whoever has it can pose as any host to who trusts it"),
            format!("chmod 600 {key}; if somebody may have read it, have a new one made"),
        );
    }
    let now = SystemTime::now();
    if facts.expires < now + SOON {
        return Finding::wrong(
            CHECK,
            format!("the interception's CA {shown} ends within 30 days, or has ended"),
            "remove ca.crt and ca.key, restart the proxy, and have clients trust the new one (darter ca interception install)",
        );
    }
    Finding::ok(CHECK, format!("the interception's CA is {shown}"))
}

/// Who may use the HTTP proxy.
fn users(path: &Path) -> Finding {
    match intercept::count_users(path) {
        Ok(count) => Finding::ok(CHECK, format!("{} has {count} users", path.display())),
        Err(cause) => Finding::wrong(
            CHECK,
            words(&cause),
            "the proxy does not start without it: one `user:password` a line, chmod 600",
        ),
    }
}

/// The certificate by which the node is a member of its cluster.
fn membership(config: &Config) -> Option<Finding> {
    let cluster = &config.cluster;
    if !cluster.is_member() {
        return None;
    }
    let path: PathBuf = match &cluster.certificate {
        Some(path) => path.clone(),
        None => config.proxy.data.join(tls::CERTIFICATE),
    };
    let shown = path.display();
    let read = std::fs::read(&path);
    let renew = match &cluster.join {
        Some(address) => format!("see that {address} can be reached, and restart the proxy"),
        None => "make another one: darter ca issue".to_owned(),
    };
    let certificate = match read.as_deref().map(Certificate::from_pem) {
        Ok(Ok(certificate)) => certificate,
        Ok(Err(cause)) => {
            return Some(Finding::wrong(
                CHECK,
                format!("{shown}: {}", words(&cause)),
                renew,
            ));
        }
        Err(_) if cluster.join.is_some() => {
            let found = "this node joins its cluster at its first start";
            return Some(Finding::ok(CHECK, found));
        }
        Err(cause) => return Some(Finding::wrong(CHECK, format!("{shown}: {cause}"), renew)),
    };
    Some(if certificate.is_valid_at(SystemTime::now()) {
        let found = format!("{shown} makes this node a member of its cluster");
        Finding::ok(CHECK, found)
    } else {
        let found = format!("{shown} does not count: it has ended, or begins later");
        Finding::wrong(CHECK, found, renew)
    })
}

/// An error with its causes.
pub(super) fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(next) = cause {
        let said = next.to_string();
        if !text.contains(&said) {
            text += ": ";
            text += &said;
        }
        cause = next.source();
    }
    text
}
