//! Lists, which are the upstream's to give: tags, referrers, the catalog.
//!
//! A list that is short is sent whole or not at all; of a longer one the rest is passed on as it
//! comes, and ends short where the registry's does.

use axum::body::Body;
use bytes::{Bytes, BytesMut};
use darter_api::Repository;
use futures::{
    StreamExt as _,
    stream::{self, BoxStream},
};
use http::{HeaderMap, HeaderValue, Response, header};

use super::{Call, Failure, route::Target};
use crate::{
    source::SourceError,
    upstream::{Ask, body_of},
};

/// Of a list; registries page long ones.
const MAX_LIST: usize = 16 * 1024 * 1024;
/// Of a list that is held until all of it is here.
const SHORT: usize = 64 * 1024;

type Rest = BoxStream<'static, Result<Bytes, SourceError>>;

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
        let (status, headers) = (reply.status(), reply.headers().clone());
        let length = headers.get(header::CONTENT_LENGTH);
        let length = length.and_then(|value| value.to_str().ok()?.parse::<usize>().ok());
        let broken = || Failure::BadGateway("the registry's list is broken or too long".to_owned());
        if length.is_some_and(|length| length > MAX_LIST) {
            return Err(broken());
        }
        let room = self.mirror.held.room(SHORT).await?;
        let begun = self.of_upstream(begin(body_of(reply))).await?;
        let (beginning, rest) = begun.map_err(|_| broken())?;
        let is_long = rest.is_some();
        let mut response = Response::new(match rest {
            None => room.body(beginning),
            Some(rest) => Body::from_stream(stream::iter([Ok(beginning)]).chain(rest)),
        });
        *response.status_mut() = status;
        if let Some(length) = length.filter(|_| is_long) {
            let length = HeaderValue::from(length);
            response
                .headers_mut()
                .insert(header::CONTENT_LENGTH, length);
        }
        for name in ["content-type", "oci-filters-applied", "oci-subject"] {
            if let Some(value) = headers.get(name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
        for link in headers.get_all(header::LINK) {
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

/// All of a list, if it is short; else its beginning, and the rest as it comes.
async fn begin(mut list: Rest) -> Result<(Bytes, Option<Rest>), SourceError> {
    let mut beginning = BytesMut::new();
    while let Some(bytes) = list.next().await {
        beginning.extend_from_slice(&bytes?);
        if beginning.len() > SHORT {
            let mut left = MAX_LIST.saturating_sub(beginning.len());
            let rest = list.map(move |bytes| {
                let bytes = bytes?;
                let too_long = SourceError::Protocol("its list is too long");
                left = left.checked_sub(bytes.len()).ok_or(too_long)?;
                Ok(bytes)
            });
            return Ok((beginning.freeze(), Some(rest.boxed())));
        }
    }
    Ok((beginning.freeze(), None))
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
