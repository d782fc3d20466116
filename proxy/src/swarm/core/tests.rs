//! Tests of the download core.
