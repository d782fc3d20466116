//! How messages are cut into bytes: as [`tonic_prost::ProstCodec`] does it, with small buffers.
//!
//! A session or link lives as long as its host and is silent nearly always, so that its buffers
//! are most of what it costs: tonic's own are 8 KiB each way, and one that has grown for a large
//! message or a full frame never shrinks. Larger messages grow these all the same.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{BufferSettings, Codec};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// Bytes of an empty buffer, more than most messages have.
const BUFFER: usize = 512;
/// Bytes of messages that are sent together: what the other end's buffer grows to, with the message
/// that reaches beyond it.
const TOGETHER: usize = 512;

/// See the module.
#[derive(Debug, Clone, Copy)]
pub(super) struct SmallBuffers<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for SmallBuffers<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for SmallBuffers<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, TOGETHER))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, TOGETHER))
    }
}
