//! Which pushes are preheated where.

use darter_api::{ClusterName, Digest};
use serde::{Deserialize, Serialize};

use crate::jobs::{Image, Request, Scope, Subject, Wish, WishError};

/// Images that are preheated when a registry says that they were pushed. An empty list fits
/// all; a `*` at the end of a pattern stands for any rest.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct PushRule {
    /// Registries, as they name themselves: `harbor.example.com`.
    pub registries: Vec<String>,
    /// Repositories: `library/*`.
    pub repositories: Vec<String>,
    /// Tags: `v*`. What was pushed without a tag fits an empty list alone.
    pub tags: Vec<String>,
    /// Who is to have it. Default `single_seed_peer`.
    pub scope: Scope,
    /// Of which cluster. Default `default`.
    pub cluster: ClusterName,
    /// `os/architecture[/variant]`. Default all.
    pub platforms: Vec<String>,
    /// What signs in at the registry, by its name in `manager.credentials`. Default none.
    pub credential: Option<String>,
}

/// An image that was pushed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Push {
    pub(crate) registry: String,
    pub(crate) repository: String,
    pub(crate) tag: Option<String>,
    pub(crate) digest: String,
}

impl PushRule {
    fn fits(&self, push: &Push) -> bool {
        let fits = |patterns: &[String], text: Option<&str>| {
            patterns.is_empty() || text.is_some_and(|text| patterns.iter().any(|one| is(one, text)))
        };
        fits(&self.registries, Some(&push.registry))
            && fits(&self.repositories, Some(&push.repository))
            && fits(&self.tags, push.tag.as_deref())
    }
}

fn is(pattern: &str, text: &str) -> bool {
    match pattern.strip_suffix('*') {
        Some(start) => text.starts_with(start),
        None => pattern == text,
    }
}

/// What is wished for of a push: by the first rule that fits; without one, with a single seed if
/// it was `asked` for by name.
pub(crate) fn wished(
    rules: &[PushRule],
    push: &Push,
    asked: bool,
) -> Option<Result<Wish, WishError>> {
    let usual = PushRule::default();
    let rule = rules.iter().find(|rule| rule.fits(push));
    let rule = rule.or_else(|| asked.then_some(&usual))?;
    Some(wish(rule, push))
}

fn wish(rule: &PushRule, push: &Push) -> Result<Wish, WishError> {
    let reference = push.tag.as_deref().unwrap_or(&push.digest);
    // By its parts: written as text, a registry with a name of one word would be a repository.
    let image = Image::checked(&push.registry, &push.repository, reference)?;
    let request = Request {
        scope: rule.scope,
        cluster: rule.cluster.clone(),
        platforms: rule.platforms.clone(),
        credential: rule.credential.clone(),
        ..Request::default()
    };
    let digest = push.digest.parse::<Digest>().ok();
    Ok(Wish {
        pushed: digest.map(|digest| digest.to_string()),
        ..request.wish_of(Subject::Image(image))?
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_rule_that_fits() {
        let rule = |repositories: &[&str], tags: &[&str], scope| PushRule {
            repositories: repositories.iter().map(ToString::to_string).collect(),
            tags: tags.iter().map(ToString::to_string).collect(),
            scope,
            ..PushRule::default()
        };
        let rules = [
            rule(&["library/*"], &["v*"], Scope::AllPeers),
            rule(&["library/app"], &[], Scope::AllSeedPeers),
        ];
        let push = |repository: &str, tag: Option<&str>| Push {
            registry: "harbor.x:8443".to_owned(),
            repository: repository.to_owned(),
            tag: tag.map(str::to_owned),
            digest: format!("sha256:{}", "0".repeat(64)),
        };
        let scope = |push: &Push| wished(&rules, push, false).map(|wish| wish.unwrap().scope);
        assert_eq!(
            scope(&push("library/app", Some("v1"))),
            Some(Scope::AllPeers)
        );
        assert_eq!(
            scope(&push("library/app", Some("1"))),
            Some(Scope::AllSeedPeers)
        );
        assert_eq!(scope(&push("library/app", None)), Some(Scope::AllSeedPeers));
        let other = push("other/app", None);
        assert_eq!(scope(&other), None);
        let asked = wished(&rules, &other, true).unwrap().unwrap();
        assert_eq!(
            asked.subject.to_string(),
            format!("harbor.x:8443/other/app@{}", other.digest)
        );
        assert_eq!(asked.scope, Scope::SingleSeedPeer);
    }

    #[test]
    fn a_registrys_name_may_be_one_word() {
        let push = Push {
            registry: "harbor".to_owned(),
            repository: "app".to_owned(),
            tag: Some("1".to_owned()),
            digest: String::new(),
        };
        let subject = wished(&[], &push, true).unwrap().unwrap().subject;
        let Subject::Image(image) = subject else {
            panic!("{subject}");
        };
        let parts = [&image.registry, &image.repository, &image.reference];
        assert_eq!(parts, ["harbor", "app", "1"]);
    }
}
