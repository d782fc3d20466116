//! Lists, which are the upstream's to give: tags, referrers, the catalog.

use axum::body::Body;
use darter_api::Repository;
use http::{HeaderMap, HeaderValue, Response, header};
use http_body_util::{BodyExt as _, Limited};

use super::{Call, Failure, route::Target};
use crate::upstream::Ask;

/// Of a list; registries page long ones.
const MAX_LIST: usize = 16 * 1024 * 1024;

impl Call<'_> {
    pub(super) async fn relay(
        &self,
        repository: Option<&Repository>,
    ) -> Result<Response<Body>, Failure> {
        let query = self
            .target
            .query
            .as_ref()
            .map(|query| format!("?{query}"))
            .unwrap_or_default();
        let mut headers = HeaderMap::new();
        if let Some(accept) = self.headers.get(header::ACCEPT) {
            headers.insert(header::ACCEPT, accept.clone());
        }
        let ask = Ask {
            method: self.method.clone(),
            path: format!("/v2/{}{query}", self.target.path),
            headers,
            repository,
            credential: self.credential.as_ref(),
            insists: false,
        };
        let reply = self.of_upstream(self.upstream.ask(ask)).await?;
        let reply = reply.map_err(|error| Failure::from_source(&error, true))?;
        let (parts, body) = reply.into_parts();
        let body = self
            .of_upstream(Limited::new(body, MAX_LIST).collect())
            .await?;
        let body = body.map_err(|_| {
            Failure::BadGateway("the registry's list is broken or too long".to_owned())
        })?;
        let mut response = Response::new(Body::from(body.to_bytes()));
        *response.status_mut() = parts.status;
        for name in ["content-type", "oci-filters-applied", "oci-subject"] {
            if let Some(value) = parts.headers.get(name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        for link in parts.headers.get_all(header::LINK) {
            if let Some(link) = link
                .to_str()
                .ok()
                .and_then(|link| own_link(self.target, link))
            {
                response.headers_mut().append(header::LINK, link);
            }
        }
        Ok(response)
    }
}

/// A link to the next page of what was asked for, through this mirror.
pub(super) fn own_link(asked: &Target, link: &str) -> Option<HeaderValue> {
    let (target, rest) = link.trim().strip_prefix('<')?.split_once('>')?;
    let path = target.find("/v2/").map(|at| &target[at + 4..])?;
    let mut own = format!("/v2/{}{path}", asked.prefix);
    if let Some(ns) = &asked.ns {
        own.push(if own.contains('?') { '&' } else { '?' });
        own.push_str("ns=");
        own.push_str(ns);
    }
    HeaderValue::try_from(format!("<{own}>{rest}")).ok()
}
