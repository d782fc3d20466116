//! What jobs are for: an image, or files.

use std::fmt;

use axum::http::Uri;
use darter_api::{
    preheat::{MOST_FILES, MOST_URL, without_query},
    wire::v1,
};
use serde::{Deserialize, Serialize};

use super::{Content, Image, WishError};

/// See the module. Printing it yields what may be shown.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Subject {
    Image(Image),
    /// URLs of one host.
    Files(Vec<String>),
}

impl Subject {
    /// Files that hosts share by rules of theirs, where these URLs make sense: all on one host,
    /// so that who may read one of them may read all.
    pub(crate) fn files(mut urls: Vec<String>) -> Result<Self, WishError> {
        let mut known = std::collections::HashSet::new();
        urls.retain(|url| known.insert(url.clone()));
        let mut hosts = urls.iter().map(|url| host(url));
        let first = hosts.next().flatten().ok_or(WishError::Files)?;
        if urls.len() > MOST_FILES || !hosts.all(|other| other.as_ref() == Some(&first)) {
            return Err(WishError::Files);
        }
        Ok(Self::Files(urls))
    }

    /// The registry of an image.
    pub(crate) fn registry(&self) -> Option<&str> {
        match self {
            Self::Image(image) => Some(&image.registry),
            Self::Files(_) => None,
        }
    }

    /// An image, as people write it.
    pub(crate) fn image(&self) -> Option<String> {
        match self {
            Self::Image(image) => Some(image.to_string()),
            Self::Files(_) => None,
        }
    }

    /// Where files are.
    pub(crate) fn files_shown(&self) -> Vec<&str> {
        match self {
            Self::Image(_) => Vec::new(),
            Self::Files(urls) => urls.iter().map(|url| without_query(url)).collect(),
        }
    }

    /// Where a content of it is, as its source names it.
    pub(crate) fn url_of(&self, content: &Content) -> String {
        match (self, &content.url) {
            (_, Some(url)) => url.clone(),
            (Self::Image(image), None) => image.url_of(&content.digest, content.manifest),
            (Self::Files(_), None) => self.to_string(),
        }
    }

    /// As schedulers and hosts are told it.
    pub(crate) fn on_the_wire(
        &self,
        platforms: Vec<String>,
    ) -> (Option<v1::PreheatImage>, Option<v1::PreheatFiles>) {
        match self {
            Self::Image(image) => (Some(image.on_the_wire(platforms)), None),
            Self::Files(urls) => {
                let urls = urls.clone();
                (None, Some(v1::PreheatFiles { urls }))
            }
        }
    }
}

impl fmt::Display for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(image) => image.fmt(f),
            Self::Files(urls) => {
                let first = urls.first().map(|url| without_query(url));
                f.write_str(first.unwrap_or_default())?;
                match urls.len() {
                    0 | 1 => Ok(()),
                    all => write!(f, " and {} more", all - 1),
                }
            }
        }
    }
}

impl fmt::Debug for Subject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Subject({self})")
    }
}

/// Scheme, host and port: the usual one where none is said.
fn host(url: &str) -> Option<(String, String, u16)> {
    let parsed: Uri = url.parse().ok()?;
    let scheme = parsed.scheme_str()?;
    let usual = match scheme {
        "http" => 80,
        "https" => 443,
        _ => return None,
    };
    let authority = parsed.authority()?;
    // A name and a password are for nobody else to see, and a fragment names no file.
    let is_plain = url.len() <= MOST_URL && !authority.as_str().contains('@') && !url.contains('#');
    let host = authority.host();
    let port = match authority.as_str().strip_prefix(host).filter(|_| is_plain)? {
        "" | ":" => usual,
        said => said.strip_prefix(':')?.parse().ok()?,
    };
    Some((scheme.to_owned(), host.to_ascii_lowercase(), port))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_one_host() {
        let of = |urls: &[&str]| Subject::files(urls.iter().map(ToString::to_string).collect());
        let url = "http://dl.example.com/a.iso?sig=secret";
        let two = of(&[url, "http://DL.example.com/b.iso", url]).unwrap();
        assert_eq!(two.to_string(), "http://dl.example.com/a.iso and 1 more");
        assert!(!two.files_shown().concat().contains("secret"));
        assert!(!format!("{two:?}").contains("secret"));
        let (image, files) = two.on_the_wire(Vec::new());
        assert_eq!((image, files.unwrap().urls[0].as_str()), (None, url));
        let kept = serde_json::to_string(&two).unwrap();
        assert_eq!(serde_json::from_str::<Subject>(&kept).unwrap(), two);
        // The same host, however it is written.
        for same in [
            ["http://h/a", "http://h:80/b"],
            ["https://h:443/a", "https://H:/b"],
            ["http://[::1]:8080/a", "http://[::1]:8080/b"],
        ] {
            assert!(of(&same).is_ok(), "{same:?}");
        }
        let long = format!("http://h/{}", "a".repeat(MOST_URL));
        for bad in [
            &[][..],
            &[""],
            &["library/app:1"],
            &["ftp://h/a"],
            &["http://u:p@h/a"],
            &["http:///a"],
            &["http://h/a b"],
            &["http://h/a#b"],
            &["http://h/a", "http://other/a"],
            &["http://h/a", "https://h/a"],
            &["http://h/a", "http://h:81/a"],
            &["http://h:80/a", "https://h:443/a"],
            &["http://h:99999/a"],
            &[&long],
        ] {
            assert_eq!(of(bad), Err(WishError::Files), "{bad:?}");
        }
    }
}
