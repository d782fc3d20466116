//! What must hold of every manifest of an image that is preheated.

use super::*;

/// Indexes and image manifests, read as for a preheat.
pub(crate) fn manifest(data: &[u8]) {
    if let Ok(index) = serde_json::from_slice::<Index>(data) {
        for platform in index
            .manifests
            .iter()
            .filter_map(|one| one.platform.as_ref())
        {
            let whole = [&platform.os, &platform.architecture, &platform.variant];
            // A part that holds a slash is none of a platform that people write.
            let has_slash = whole.iter().any(|part| part.contains('/'));
            assert!(has_slash || platform.is(&whole.map(String::as_str).join("/")));
        }
    }
    let manifest = Manifest {
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
