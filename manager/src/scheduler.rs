//! The way from a manager to one of its schedulers.

use std::time::Duration;

use darter_api::HostId;
use darter_runtime::tls::{Connector, EndpointError};
use tonic::transport::Channel;

use crate::members::Known;

/// For a scheduler to be reached.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);

/// There is no way.
#[derive(Debug, thiserror::Error)]
pub(crate) enum WayError {
    #[error("the scheduler's URL")]
    Url(#[from] EndpointError),
    #[error("the scheduler's key makes no sense")]
    Key,
}

/// A connection that is made when it is used. Only the host that beat is told anything.
pub(crate) fn connect(connector: &Connector, scheduler: &Known) -> Result<Channel, WayError> {
    let host: HostId = scheduler.host.parse().map_err(|_| WayError::Key)?;
    let connector = connector.clone().expecting(host);
    let endpoint = connector.endpoint(&scheduler.address)?;
    Ok(endpoint
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(Duration::from_secs(1))
        .keep_alive_timeout(Duration::from_secs(2))
        .keep_alive_while_idle(true)
        .connect_with_connector_lazy(connector))
}
