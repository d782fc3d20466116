//! What a registry answers to who only asks whether it is there.

use std::time::SystemTime;

use http::{Request, StatusCode, header};

use super::{Upstream, http_client::Reach};
use crate::source::SourceError;

/// The answer to an anonymous `GET /v2/`, redirects not followed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Probe {
    /// 200 and 401 are those of a registry.
    /// <https://github.com/opencontainers/distribution-spec/blob/v1.1.1/spec.md#determining-support>
    pub status: StatusCode,
    /// The time there, to a second; not every registry tells it.
    pub date: Option<SystemTime>,
}

impl Upstream {
    /// Asks whether it is there, whatever it was a moment ago.
    ///
    /// # Errors
    /// When no answer comes within the time of a reply's headers.
    pub async fn probe(&self) -> Result<Probe, SourceError> {
        let base = self.base().to_string();
        let request = Request::get(format!("{}/v2/", base.trim_end_matches('/')))
            .body(())
            .map_err(|_| SourceError::Protocol("the request makes no URL"))?;
        let reply = self.client.send(&request, Reach::Own).await;
        let reply = reply.map_err(|cause| SourceError::broken("GET /v2/", cause))?;
        let date = reply.headers().get(header::DATE);
        let date = date.and_then(|date| date.to_str().ok());
        Ok(Probe {
            status: reply.status(),
            date: date.and_then(|date| httpdate::parse_http_date(date).ok()),
        })
    }
}
