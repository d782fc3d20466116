//! What a source that is read proves of who may read it.

use darter_api::{
    Digest, Origin, Repository, UpstreamName,
    session::{PeerMessage, PublicContent},
};
use tokio::sync::mpsc;

use super::{Input, claims::Claims};
use crate::{
    credential::Credential,
    rights::{self, Proofs},
    source::Body,
    swarm::core::event::Event,
};

/// Passes proofs on: to this host's rights, and of what anybody may read to the other members,
/// who need not ask then.
#[derive(Clone)]
pub(super) struct Proven {
    pub(super) proofs: Proofs,
    pub(super) claims: Claims,
    pub(super) inbox: mpsc::Sender<Input>,
}

impl Proven {
    /// The source began to give a content to this credential.
    pub(super) fn given(
        &self,
        origin: &Origin,
        digest: &Digest,
        credential: Option<&Credential>,
        body: &Body,
    ) {
        // A credential of the source's own is nobody's right.
        if credential.is_none() && !body.anonymous {
            return;
        }
        let stat = body.stat.clone();
        let is_new = self.proofs.given(origin, digest, credential, stat);
        if is_new && credential.is_none() {
            let seen = rights::observation(origin, digest, &body.stat);
            let said = Event::Say(PeerMessage::Observed(seen));
            // Who is not told of it asks the upstream.
            let _ = self.inbox.try_send(Input::Event(said));
        }
    }

    /// Another member has read these blobs, as anybody could.
    pub(super) fn told(&self, upstream: &UpstreamName, at: &Repository, all: &[PublicContent]) {
        self.proofs.told(upstream, at, all);
    }
}
