//! Whether what a host found out is about what it was asked.
//!
//! One host answers for all, and all have what it says. What an image is made of only the
//! registry knows; but an answer is about that image, or those files, and says nothing twice.

use std::collections::HashSet;

use darter_api::{
    OriginKind,
    preheat::{Content, Subject, without_query},
    session::Reference,
};

/// An answer is about something else.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum OddAnswer {
    #[error("it names a content twice")]
    Twice,
    #[error("it answers with files where an image is meant")]
    Files,
    #[error("its answer does not begin with the image's manifest")]
    Manifest,
    #[error("it answers with another manifest than the one that is named")]
    OtherManifest,
    #[error("it answers with what is none of the files that are meant")]
    OtherFile,
    #[error("its answer leaves out a file")]
    FileLeftOut,
}

/// See the module.
pub(super) fn check(subject: &Subject, contents: &[Content]) -> Result<(), OddAnswer> {
    let mut known = HashSet::new();
    if !contents.iter().all(|content| known.insert(content.digest)) {
        return Err(OddAnswer::Twice);
    }
    match subject {
        Subject::Image(image) => is_of_image(&image.reference, contents),
        Subject::Files(urls) => is_of_files(urls, contents),
    }
}

fn is_of_image(reference: &Reference, contents: &[Content]) -> Result<(), OddAnswer> {
    if contents.iter().any(|content| content.url.is_some()) {
        return Err(OddAnswer::Files);
    }
    let first = contents.first();
    let manifest = first.filter(|first| first.kind == OriginKind::Manifest);
    let manifest = manifest.ok_or(OddAnswer::Manifest)?;
    match reference {
        Reference::Digest(digest) if *digest != manifest.digest => Err(OddAnswer::OtherManifest),
        Reference::Digest(_) | Reference::Tag(_) => Ok(()),
    }
}

/// URLs that differ in their queries alone may be one file, as a host's rules have it.
fn is_of_files(urls: &[String], contents: &[Content]) -> Result<(), OddAnswer> {
    let wanted: HashSet<&str> = urls.iter().map(String::as_str).collect();
    let mut told = HashSet::new();
    for content in contents {
        let url = content.url.as_deref().filter(|url| wanted.contains(url));
        told.insert(without_query(url.ok_or(OddAnswer::OtherFile)?));
    }
    let is_told = |url: &&str| told.contains(without_query(url));
    match wanted.iter().all(is_told) {
        true => Ok(()),
        false => Err(OddAnswer::FileLeftOut),
    }
}

#[cfg(test)]
mod tests {
    use darter_api::{Digest, preheat::ImageName};

    use super::*;

    fn content(text: &str, kind: OriginKind, url: Option<&str>) -> Content {
        Content {
            digest: Digest::sha256(text.as_bytes()),
            size: 1,
            kind,
            url: url.map(str::to_owned),
        }
    }

    fn image(reference: Reference) -> Subject {
        Subject::Image(ImageName {
            registry: "docker.io".to_owned(),
            repository: "library/app".parse().unwrap(),
            reference,
            platforms: Vec::new(),
        })
    }

    #[test]
    fn an_image_is_what_was_named() {
        let (manifest, blob) = (
            content("m", OriginKind::Manifest, None),
            content("b", OriginKind::Blob, None),
        );
        let file = content("f", OriginKind::Blob, Some("http://h/a"));
        let tag = image(Reference::Tag("1".to_owned()));
        let of = |subject: &Subject, contents: &[&Content]| {
            let contents: Vec<Content> = contents.iter().copied().cloned().collect();
            check(subject, &contents)
        };
        assert_eq!(of(&tag, &[&manifest, &blob]), Ok(()));
        assert_eq!(of(&tag, &[&blob, &manifest]), Err(OddAnswer::Manifest));
        assert_eq!(of(&tag, &[]), Err(OddAnswer::Manifest));
        let twice = [&manifest, &blob, &blob];
        assert_eq!(of(&tag, &twice), Err(OddAnswer::Twice));
        assert_eq!(of(&tag, &[&manifest, &file]), Err(OddAnswer::Files));
        let named = image(Reference::Digest(manifest.digest));
        assert_eq!(of(&named, &[&manifest, &blob]), Ok(()));
        let other = image(Reference::Digest(blob.digest));
        assert_eq!(
            of(&other, &[&manifest, &blob]),
            Err(OddAnswer::OtherManifest)
        );
    }

    #[test]
    fn files_are_those_that_were_named() {
        let urls = ["http://h/a?sig=1", "http://h/a?sig=2", "http://h/b"];
        let subject = Subject::Files(urls.map(str::to_owned).to_vec());
        let file = |text: &str, url: &str| content(text, OriginKind::Blob, Some(url));
        let (a, b) = (file("a", urls[0]), file("b", urls[2]));
        assert_eq!(check(&subject, &[a.clone(), b.clone()]), Ok(()));
        let left_out = check(&subject, std::slice::from_ref(&a));
        assert_eq!(left_out, Err(OddAnswer::FileLeftOut));
        for odd in [
            file("c", "http://h/c"),
            file("c", "http://h/a"),
            content("c", OriginKind::Blob, None),
        ] {
            let odd = check(&subject, &[a.clone(), b.clone(), odd]);
            assert_eq!(odd, Err(OddAnswer::OtherFile));
        }
    }
}
