//! Metrics of the peer.
