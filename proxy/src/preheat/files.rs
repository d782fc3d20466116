//! Files that are to be had: which versions of them there are.

use std::collections::HashSet;

use darter_api::{
    OriginKind, UpstreamName,
    preheat::{Authorization, Content, Report, cut, without_query},
};
use futures::{StreamExt as _, stream};

use super::Preheater;
use crate::{
    files::{Ahead, AheadError},
    mirror::chain,
};

/// Questions to the source at the same time.
const QUESTIONS: usize = 8;

impl Preheater {
    /// Which version of each there is now, as this host's clients would be told. Cancel-safe.
    pub(super) async fn resolve_files(&self, urls: &[String]) -> Report {
        let questions: Vec<_> = urls.iter().map(|url| self.files.ahead(url)).collect();
        let mut answers = stream::iter(questions).buffered(QUESTIONS);
        let (mut contents, mut known) = (Vec::new(), HashSet::new());
        let mut upstream: Option<UpstreamName> = None;
        for url in urls {
            let Some(answer) = answers.next().await else {
                break;
            };
            let file = match answer {
                Ok(file) => file,
                Err(error) => return unresolved(url, &error),
            };
            upstream.get_or_insert(file.origin.upstream.clone());
            if known.insert(file.task) {
                contents.push(content(url, &file));
            }
        }
        match upstream {
            Some(upstream) => Report::Resolved {
                upstream,
                contents,
                token: Authorization::default(),
            },
            None => Report::Unresolved {
                digest: None,
                why: "no file is named".to_owned(),
                elsewhere: false,
            },
        }
    }
}

fn content(url: &str, file: &Ahead) -> Content {
    Content {
        digest: *file.task.digest(),
        size: file.size,
        kind: OriginKind::Blob,
        url: Some(url.to_owned()),
    }
}

fn unresolved(url: &str, error: &AheadError) -> Report {
    Report::Unresolved {
        digest: None,
        why: cut(format!("{}: {}", chain(error), without_query(url))),
        elsewhere: error.is_of_this_host(),
    }
}
