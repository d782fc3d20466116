//! What must hold of every manifest of an image that is preheated.

use super::*;

/// Indexes and image manifests, read as for a preheat.
pub(crate) fn manifest(data: &[u8]) {
    if let Ok(index) = Manifest::parse(data) {
        for child in index.manifests().flatten() {
            let Some(platform) = &child.platform else {
                continue;
            };
            let (os, architecture) = (
                platform.os().to_string(),
                platform.architecture().to_string(),
            );
            let whole = [
                os,
                architecture,
                platform.variant().clone().unwrap_or_default(),
            ];
            // A part that holds a slash is none of a platform that people write.
            let has_slash = whole.iter().any(|part| part.contains('/'));
            assert!(has_slash || child.is_for(&whole.join("/")));
        }
    }
    let manifest = Answer {
        digest: Digest::sha256(data),
        bytes: data.to_vec().into(),
    };
    if let Ok(contents) = blobs(&manifest) {
        assert!(
            contents
                .iter()
                .all(|content| content.kind == OriginKind::Blob)
        );
    }
}
