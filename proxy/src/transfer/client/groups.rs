//! Fetching groups of a content from a seed that reads them from the source.
//!
//! Each group comes behind the seed's signature for its digest, and leaves this module only when
//! that is right.

use std::{net::SocketAddr, ops::Range, time::Duration};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use bytes::Bytes;
use darter_api::{
    ProofError,
    link::Excerpt,
    proof::{ExcerptStatement, GroupDigest},
    wire::v1,
};
use prost::Message as _;

use super::{FetchError, PieceClient, Reply, Rot};
use crate::{
    limits::Class,
    transfer::{EXCERPT_HEADER, HOST_HEADER, groups_path, parents::Head},
};

/// Bytes of a signature.
const SIGNATURE: usize = 64;

/// What is to be fetched.
#[derive(Debug, Clone)]
pub struct GroupsWanted {
    /// The seed's peer port.
    pub address: SocketAddr,
    /// By whose leave, and where the content can be read.
    pub excerpt: Excerpt,
    /// The groups, counted from the content's beginning.
    pub groups: Range<u32>,
    /// Give up when no byte arrives for so long.
    pub stall_after: Duration,
}

/// Groups under way. Dropping it closes the connection, unless all of them came.
pub struct GroupsReply {
    client: PieceClient,
    wanted: GroupsWanted,
    /// Until the last group came.
    reply: Option<(Reply, Head)>,
}

impl PieceClient {
    /// Asks a seed for groups; returns when the first is on its way.
    ///
    /// # Errors
    /// Why they do not come.
    pub async fn groups(&self, wanted: GroupsWanted) -> Result<GroupsReply, FetchError> {
        let leave = v1::Excerpt::from(&wanted.excerpt).encode_to_vec();
        let request = format!(
            "GET {} HTTP/1.1\r\nhost: {}\r\n{HOST_HEADER}: {}\r\n{EXCERPT_HEADER}: {}\r\n\r\n",
            groups_path(&wanted.excerpt.grant.task, &wanted.groups),
            wanted.address,
            self.own,
            STANDARD.encode(leave),
        );
        let asked = self.ask(wanted.address, wanted.stall_after, &request);
        let (connection, head) = asked.await?;
        let reply = Reply {
            connection,
            left: head.length,
            stall_after: wanted.stall_after,
            limits: self.limits.clone(),
            class: Class::Foreground,
        };
        Ok(GroupsReply {
            client: self.clone(),
            wanted,
            reply: Some((reply, head)),
        })
    }
}

impl GroupsReply {
    /// The next group, verified; `None` after the last.
    ///
    /// # Errors
    /// Why it does not come.
    pub async fn next(&mut self) -> Result<Option<Bytes>, FetchError> {
        let Some((reply, _)) = &mut self.reply else {
            return Ok(None);
        };
        let wanted = &mut self.wanted;
        if wanted.groups.is_empty() {
            if let Some((reply, head)) = self.reply.take().filter(|(reply, _)| reply.left == 0) {
                let connection = reply.connection;
                let parents = &self.client.parents;
                parents.give_back(self.wanted.address, connection, &head);
            }
            return Ok(None);
        }
        let (group, grant) = (wanted.groups.start, &wanted.excerpt.grant);
        let place = grant.lengths.bytes_of_groups(group..group + 1);
        let length = (place.end - place.start) as usize;
        let signature = reply.take(SIGNATURE).await?.try_into();
        let signature = signature.map_err(|_| FetchError::Rot(Rot::Length))?;
        let bytes = reply.take(length).await?;
        let statement = ExcerptStatement {
            group,
            digest: GroupDigest::of(bytes),
            signature,
        };
        if !statement.is_authentic(grant) {
            let wrong = Rot::Proof(ProofError::Signature(grant.holder));
            return Err(FetchError::Rot(wrong));
        }
        let bytes = Bytes::copy_from_slice(bytes);
        reply.write_soon(length as u64).await;
        wanted.groups.start += 1;
        Ok(Some(bytes))
    }
}
