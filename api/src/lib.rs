//! The wire and the shared vocabulary of Darter.
//!
//! Everything the parts say to each other is defined here, and nothing else: no
//! I/O, no clock, no policy. The plain Rust types ([`session`], [`link`]) are what
//! the pure cores speak; [`wire`] holds their protobuf form and the checked
//! conversions between the two.

pub mod configuration;
pub mod digest;
pub mod errand;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
pub mod host;
pub mod lengths;
pub mod link;
pub mod membership;
pub mod origin;
pub mod pieces;
pub mod preheat;
pub mod proof;
pub mod rendezvous;
pub mod session;
pub mod task;
pub mod time;
pub mod wire;

pub use digest::{Algorithm, Digest, DigestError, Hasher};
pub use host::{HostId, NodeKey};
pub use lengths::{GROUP_BYTES, Lengths, LengthsError, PieceIndex, READ_OVER_BYTES};
pub use membership::{ClusterName, Member, MemberKind, Place};
pub use origin::{Origin, OriginKind, Repository, UpstreamName};
pub use pieces::PieceSet;
pub use proof::{End, Grant, PieceDigest, Proof, ProofError, Statement};
pub use rendezvous::SchedulerName;
pub use task::TaskId;
pub use time::Timestamp;
