//! What is said in a session, cut into parts as the stream takes them.
//!
//! A message takes one place in the outbox however much there is to tell, so that a host with any
//! number of contents can tell of them all, as fast as its scheduler reads.

use darter_api::{session::PeerMessage, wire::v1};
use futures::{Stream, StreamExt as _, stream};
use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;

/// Tasks in one part, a KiB of an inventory: the buffers of a scheduler's thousands of sessions grow
/// to the largest message and stay so.
const TASKS: usize = 24;

/// The hello, once there is one, and then what is said.
pub(super) fn spoken(
    hello: oneshot::Receiver<v1::PeerMessage>,
    said: mpsc::Receiver<PeerMessage>,
) -> impl Stream<Item = v1::PeerMessage> + Send {
    let hello = stream::once(hello).filter_map(async |hello| hello.ok());
    let parts = ReceiverStream::new(said).flat_map(|message| stream::iter(parts(message)));
    hello.boxed().chain(parts.map(|part| (&part).into()))
}

/// What may be of any length in parts, anything else as it is.
fn parts(message: PeerMessage) -> Box<dyn Iterator<Item = PeerMessage> + Send> {
    match message {
        PeerMessage::Inventory { holdings, last } => {
            Box::new(cut(holdings, move |holdings, end| {
                let last = last && end;
                PeerMessage::Inventory { holdings, last }
            }))
        }
        PeerMessage::Moved { tasks } => {
            Box::new(cut(tasks, |tasks, _| PeerMessage::Moved { tasks }))
        }
        PeerMessage::Evicted { tasks } => {
            Box::new(cut(tasks, |tasks, _| PeerMessage::Evicted { tasks }))
        }
        PeerMessage::Interest { tasks, origin } => Box::new(cut(tasks, move |tasks, _| {
            let origin = origin.clone();
            PeerMessage::Interest { tasks, origin }
        })),
        message => Box::new(std::iter::once(message)),
    }
}

/// At least one part; `say` hears whether it is the last.
fn cut<T>(
    all: Vec<T>,
    say: impl Fn(Vec<T>, bool) -> PeerMessage,
) -> impl Iterator<Item = PeerMessage> {
    let mut rest = Some(all.into_iter());
    std::iter::from_fn(move || {
        let left = rest.as_mut()?;
        let part = left.by_ref().take(TASKS).collect();
        let end = left.len() == 0;
        if end {
            rest = None;
        }
        Some(say(part, end))
    })
}

#[cfg(test)]
mod tests {
    use darter_api::{Digest, Lengths, Origin, OriginKind, PieceSet, TaskId, session::Holding};

    use super::*;

    fn task(number: usize) -> TaskId {
        TaskId::of_content(Digest::sha256(&number.to_be_bytes()))
    }

    fn lengths() -> Lengths {
        Lengths::of(1 << 20).unwrap()
    }

    fn origin() -> Origin {
        Origin {
            upstream: "docker.io".parse().unwrap(),
            repository: "library/app".parse().unwrap(),
            kind: OriginKind::Blob,
            private: false,
        }
    }

    fn holding(number: usize) -> Holding {
        let lengths = lengths();
        Holding {
            task: task(number),
            lengths,
            held: PieceSet::full(lengths.pieces()),
            reading: PieceSet::new(),
            wanted: false,
            origin: None,
        }
    }

    /// What comes out of an outbox with one place.
    async fn heard(message: PeerMessage) -> Vec<PeerMessage> {
        let (outbox, said) = mpsc::channel(1);
        let (greet, greeting) = oneshot::channel();
        greet.send((&PeerMessage::Resting).into()).unwrap();
        outbox.try_send(message).unwrap();
        drop(outbox);
        let parts = spoken(greeting, said).map(|part| PeerMessage::try_from(part).unwrap());
        let mut parts: Vec<_> = parts.collect().await;
        assert_eq!(parts.remove(0), PeerMessage::Resting, "the hello's place");
        parts
    }

    #[tokio::test]
    async fn any_number_of_contents_takes_one_place_and_bounded_messages() {
        const MANY: usize = 140_000;
        let holdings = (0..MANY).map(holding).collect();
        let parts = heard(PeerMessage::Inventory {
            holdings,
            last: true,
        })
        .await;
        let (mut told, count) = (0, parts.len());
        for (number, part) in parts.into_iter().enumerate() {
            let PeerMessage::Inventory { holdings, last } = part else {
                panic!("another message");
            };
            assert!(holdings.len() <= TASKS);
            assert_eq!(last, number + 1 == count);
            assert_eq!(holdings.first(), Some(&self::holding(told)));
            told += holdings.len();
        }
        assert_eq!(told, MANY);
    }

    #[tokio::test]
    async fn what_moved_is_told_in_parts_and_nothing_is_still_told() {
        let tasks: Vec<TaskId> = (0..100).map(task).collect();
        let parts = heard(PeerMessage::Moved {
            tasks: tasks.clone(),
        })
        .await;
        let told = parts.iter().flat_map(|part| match part {
            PeerMessage::Moved { tasks } => tasks.clone(),
            _ => Vec::new(),
        });
        assert_eq!(told.collect::<Vec<_>>(), tasks);
        assert!(parts.len() > 1);
        let interest = heard(PeerMessage::Interest {
            tasks: tasks.iter().map(|task| (*task, lengths())).collect(),
            origin: origin(),
        });
        let told = interest.await.into_iter().flat_map(|part| match part {
            PeerMessage::Interest {
                tasks,
                origin: told,
            } => {
                assert!(tasks.len() <= TASKS && told == origin());
                tasks
            }
            _ => Vec::new(),
        });
        assert!(told.map(|(task, _)| task).eq(tasks));
        let nothing = PeerMessage::Inventory {
            holdings: Vec::new(),
            last: true,
        };
        assert_eq!(heard(nothing.clone()).await, [nothing]);
    }
}
