//! What is asked for, checked.

use std::{net::IpAddr, time::Duration};

use base64::{Engine as _, prelude::BASE64_STANDARD};
use darter_api::{
    ClusterName,
    preheat::{Authorization, Choice, MOST_FILES, MOST_PLATFORMS, Scope},
    wire::v1,
};
use serde::{Deserialize, Serialize};

use super::{Subject, image::Image};

/// A job is given so long unless it says otherwise (Harbor gives up then); and at most.
const TIMEOUT: (Duration, Duration) = (Duration::from_secs(1800), Duration::from_secs(24 * 3600));
/// What was preheated is kept so long unless the job says otherwise; and at most.
const PIN: (Duration, Duration) = (
    Duration::from_secs(3600),
    Duration::from_secs(30 * 24 * 3600),
);
/// Addresses in one wish.
const MOST_IPS: usize = 4096;
/// Of a platform's name.
const MOST_PLATFORM: usize = 64;

/// What is wrong with a wish.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum WishError {
    #[error("one of `image`, `url` and `files` says what is meant")]
    NoSubject,
    #[error("`files` are at most {MOST_FILES} URLs of one host, http://host/path")]
    Files,
    #[error("files are for everybody: nothing signs in for them, and they have no platforms")]
    FilesAreForAll,
    #[error("the queries of files are forgotten with the job's end: `files` says them again")]
    FilesAgain,
    #[error("`files` are the same as before, but for their queries")]
    OtherFiles,
    #[error("a URL is one of a manifest: https://registry/v2/repository/manifests/reference")]
    Url,
    #[error("the registry's name makes no sense")]
    Registry,
    #[error("the repository's name makes no sense")]
    Repository,
    #[error("the image's tag or digest makes no sense")]
    Reference,
    #[error(
        "a platform is `os/architecture` or `os/architecture/variant`, at most {MOST_PLATFORMS} of them"
    )]
    Platform,
    #[error("`ips` are at most {MOST_IPS} addresses")]
    Ips,
    #[error("`percentage` is from 0 to 100")]
    Percentage,
    #[error("either `credential` or what signs in itself is named")]
    Credentials,
    #[error("`authorization` makes no header")]
    Authorization,
    #[error("`timeout_seconds` is at most one day")]
    Timeout,
    #[error("`pin_seconds` is at most 30 days")]
    Pin,
}

/// A job as it is posted.
#[derive(Clone, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub(crate) struct Request {
    pub(crate) image: Option<String>,
    pub(crate) url: Option<String>,
    /// URLs of one host, that rules of the hosts' own share.
    pub(crate) files: Option<Vec<String>>,
    pub(crate) platforms: Vec<String>,
    pub(crate) scope: Scope,
    /// Whose hosts; the default one's unless it is said.
    pub(crate) cluster: ClusterName,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) count: u32,
    pub(crate) percentage: u32,
    /// One that the manager keeps.
    pub(crate) credential: Option<String>,
    pub(crate) authorization: Option<String>,
    pub(crate) username: Option<String>,
    pub(crate) password: Option<String>,
    pub(crate) concurrent_hosts: u32,
    pub(crate) concurrent_contents: u32,
    pub(crate) timeout_seconds: Option<u64>,
    pub(crate) pin_seconds: Option<u64>,
}

/// What signs in at the registry, kept apart from the wish and never shown.
pub(crate) type Secret = Authorization;

/// An image or files, and who is to have them.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Wish {
    #[serde(flatten)]
    pub(crate) subject: Subject,
    /// What a registry said was pushed: the same tag pushed again is another wish.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pushed: Option<String>,
    /// What signs in, where the manager keeps it: its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) credential: Option<String>,
    pub(crate) platforms: Vec<String>,
    pub(crate) scope: Scope,
    #[serde(default)]
    pub(crate) cluster: ClusterName,
    pub(crate) ips: Vec<IpAddr>,
    pub(crate) count: u32,
    pub(crate) percentage: u32,
    pub(crate) concurrent_hosts: u32,
    pub(crate) concurrent_contents: u32,
    pub(crate) timeout_seconds: u64,
    pub(crate) pin_seconds: u64,
}

impl Request {
    /// What signs in: the header as it came, or user and password.
    pub(crate) fn secret(&self) -> Result<Secret, WishError> {
        let said = [&self.authorization, &self.username, &self.password];
        if self.credential.is_some() && said.iter().any(|one| one.is_some()) {
            return Err(WishError::Credentials);
        }
        let text = match (&self.authorization, &self.username, &self.password) {
            (Some(text), ..) => text.clone(),
            (None, None, None) => String::new(),
            (None, user, password) => {
                let user = user.as_deref().unwrap_or_default();
                let password = password.as_deref().unwrap_or_default();
                format!(
                    "Basic {}",
                    BASE64_STANDARD.encode(format!("{user}:{password}"))
                )
            }
        };
        Authorization::checked(text).ok_or(WishError::Authorization)
    }

    /// The wish, if it makes sense.
    pub(crate) fn wish(self) -> Result<Wish, WishError> {
        let subject = match (&self.image, &self.url, &self.files) {
            (Some(image), None, None) => Subject::Image(Image::parse(image)?),
            (None, Some(url), None) => Subject::Image(Image::parse_url(url)?),
            (None, None, Some(urls)) => Subject::files(urls.clone())?,
            _ => return Err(WishError::NoSubject),
        };
        self.wish_of(subject)
    }

    /// The rest of the wish, for this.
    pub(crate) fn wish_of(self, subject: Subject) -> Result<Wish, WishError> {
        let signs_in = [&self.credential, &self.authorization, &self.username];
        let is_private = signs_in.iter().any(|one| one.is_some()) || self.password.is_some();
        if matches!(subject, Subject::Files(_)) && (is_private || !self.platforms.is_empty()) {
            return Err(WishError::FilesAreForAll);
        }
        if self.platforms.len() > MOST_PLATFORMS
            || !self.platforms.iter().all(|one| is_platform(one))
        {
            return Err(WishError::Platform);
        }
        if self.ips.len() > MOST_IPS {
            return Err(WishError::Ips);
        }
        if self.percentage > 100 {
            return Err(WishError::Percentage);
        }
        let within = |asked: Option<u64>, (usual, most): (Duration, Duration)| {
            Some(asked.unwrap_or(usual.as_secs())).filter(|asked| *asked <= most.as_secs())
        };
        let timeout = self.timeout_seconds.filter(|seconds| *seconds > 0);
        Ok(Wish {
            subject,
            pushed: None,
            credential: self.credential,
            platforms: self.platforms,
            scope: self.scope,
            cluster: self.cluster,
            ips: self.ips,
            count: self.count,
            percentage: self.percentage,
            concurrent_hosts: self.concurrent_hosts,
            concurrent_contents: self.concurrent_contents,
            timeout_seconds: within(timeout, TIMEOUT).ok_or(WishError::Timeout)?,
            pin_seconds: within(self.pin_seconds, PIN).ok_or(WishError::Pin)?,
        })
    }
}

impl Wish {
    /// For a scheduler, which gives hosts so long.
    pub(crate) fn request(&self, secret: &Secret, left: Duration) -> v1::PreheatRequest {
        let (image, files) = self.subject.on_the_wire(self.platforms.clone());
        v1::PreheatRequest {
            image,
            files,
            authorization: secret.reveal().unwrap_or_default().to_owned(),
            scope: v1::PreheatScope::from(self.scope).into(),
            ips: self.ips.iter().map(ToString::to_string).collect(),
            count: self.count,
            percentage: self.percentage,
            hosts_at_once: self.concurrent_hosts,
            contents_at_once: self.concurrent_contents,
            pin_seconds: self.pin_seconds,
            timeout_seconds: left.as_secs().max(1),
            except: Vec::new(),
            only: Vec::new(),
        }
    }

    /// Which hosts, in words.
    pub(crate) fn choice(&self) -> Choice {
        Choice {
            scope: self.scope,
            ips: self.ips.clone(),
            count: self.count as usize,
            percentage: self.percentage as usize,
        }
    }
}

fn is_platform(text: &str) -> bool {
    let word = |part: &str| {
        part.starts_with(|first: char| first.is_ascii_alphanumeric())
            && part
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    let parts: Vec<&str> = text.split('/').collect();
    text.len() <= MOST_PLATFORM && (2..=3).contains(&parts.len()) && parts.into_iter().all(word)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(text: &str) -> Result<Wish, WishError> {
        serde_json::from_str::<Request>(text).unwrap().wish()
    }

    #[test]
    fn wishes_are_checked() {
        let wish =
            of(r#"{"image":"app:1","platforms":["linux/arm64/v8"],"scope":"all_peers"}"#).unwrap();
        assert_eq!(
            (wish.scope, wish.timeout_seconds, wish.pin_seconds),
            (Scope::AllPeers, 1800, 3600)
        );
        for odd in [
            "{}",
            r#"{"image":"a","url":"b"}"#,
            r#"{"image":"a","files":[]}"#,
        ] {
            assert_eq!(of(odd), Err(WishError::NoSubject), "{odd}");
        }
        assert!(of(r#"{"files":["http://h/a"]}"#).is_ok());
        assert_eq!(of(r#"{"files":[]}"#), Err(WishError::Files));
        for more in [
            r#""password":"p""#,
            r#""credential":"c""#,
            r#""platforms":["a/b"]"#,
        ] {
            let text = format!(r#"{{"files":["http://h/a"],{more}}}"#);
            assert_eq!(of(&text), Err(WishError::FilesAreForAll), "{more}");
        }
        assert_eq!(
            of(r#"{"image":"a","platforms":["linux"]}"#),
            Err(WishError::Platform)
        );
        assert_eq!(
            of(r#"{"image":"a","percentage":101}"#),
            Err(WishError::Percentage)
        );
        assert_eq!(
            of(r#"{"image":"a","timeout_seconds":86401}"#),
            Err(WishError::Timeout)
        );
        assert_eq!(
            of(r#"{"image":"a","pin_seconds":9999999}"#),
            Err(WishError::Pin)
        );
        assert_eq!(
            of(r#"{"image":"a","pin_seconds":0}"#).unwrap().pin_seconds,
            0
        );
    }

    #[test]
    fn wishes_are_kept_as_they_always_were() {
        let wish = of(r#"{"image":"app:1"}"#).unwrap();
        let kept = serde_json::to_string(&wish).unwrap();
        let image =
            r#"{"image":{"registry":"docker.io","repository":"library/app","reference":"1"}"#;
        assert!(kept.starts_with(image), "{kept}");
        assert_eq!(serde_json::from_str::<Wish>(&kept).unwrap(), wish);
    }

    #[test]
    fn secrets_are_made_and_checked() {
        let of = |text: &str| serde_json::from_str::<Request>(text).unwrap().secret();
        let revealed = |text: &str| of(text).unwrap().reveal().map(str::to_owned);
        assert_eq!(revealed("{}"), None);
        assert_eq!(
            revealed(r#"{"authorization":"Bearer x"}"#).unwrap(),
            "Bearer x"
        );
        assert_eq!(
            revealed(r#"{"username":"u","password":"p"}"#).unwrap(),
            "Basic dTpw"
        );
        assert_eq!(
            of(r#"{"credential":"harbor","username":"u"}"#),
            Err(WishError::Credentials)
        );
        assert_eq!(
            of(r#"{"authorization":"a\r\nb: c"}"#),
            Err(WishError::Authorization)
        );
    }
}
