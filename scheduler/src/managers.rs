//! Who the managers are: those that this scheduler's own manager names.
//!
//! Other members of the TLS cluster are refused what only managers may ask for. In plain text
//! nobody proves who he is.

use darter_api::HostId;
use darter_runtime::server::PeerIdentity;
use tokio::sync::watch;
use tonic::{Request, Status};

/// The managers' keys, as the last beat named them.
#[derive(Debug, Clone)]
pub(crate) struct Managers(pub(crate) watch::Receiver<Vec<HostId>>);

impl Managers {
    /// Lets managers pass, and who is in plain text; `what` is refused to anybody else.
    ///
    /// # Errors
    /// `PERMISSION_DENIED`.
    pub(crate) fn check<T>(&self, request: &Request<T>, what: &'static str) -> Result<(), Status> {
        if let Some(PeerIdentity(host)) = request.extensions().get()
            && !self.0.borrow().contains(host)
        {
            tracing::warn!(?host, what, "refused: no manager asks for it");
            let why = "taken from managers that this scheduler's own manager names";
            return Err(Status::permission_denied(format!("{what} are {why}")));
        }
        Ok(())
    }
}
