//! What readers and downloads tell the actor without waiting for it.
//!
//! Owner of state: the actor takes letters out, everybody else puts them in. A drop
//! can't await and a reader must not wait for a busy actor, so this is no channel:
//! letters about lifetimes are as many as there are downloads and readers, and a
//! reader's place is kept once, the newest.

use std::{
    collections::{HashMap, VecDeque},
    mem,
    ops::Range,
    sync::Arc,
};

use darter_api::TaskId;
use parking_lot::Mutex;
use tokio::sync::Notify;

use super::download::Download;
use crate::swarm::core::event::ReaderId;

/// Something that must not get lost.
#[derive(Debug)]
pub(super) enum Letter {
    /// A download is wanted (again).
    Start(Arc<Download>),
    /// A reader left.
    ReaderGone(TaskId, ReaderId),
    /// The last who held a download let go of it.
    Released(TaskId),
    /// The store takes no more of it; its readers go on by themselves.
    StoreFailed(Arc<Download>),
}

/// All that was put in since the last look.
#[derive(Debug, Default)]
pub(super) struct Mail {
    /// In the order they came.
    pub(super) letters: VecDeque<Letter>,
    /// Readers that moved, and what they want now. To be told after the letters, so
    /// that a download has started before its readers are heard.
    pub(super) places: HashMap<ReaderId, (TaskId, Range<u32>)>,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Mailbox {
    mail: Mutex<Mail>,
    arrived: Notify,
}

impl Mailbox {
    pub(super) fn put(&self, letter: Letter) {
        {
            let mut mail = self.mail.lock();
            if let Letter::ReaderGone(_, reader) = &letter {
                mail.places.remove(reader);
            }
            mail.letters.push_back(letter);
        }
        self.arrived.notify_one();
    }

    pub(super) fn moved(&self, task: TaskId, reader: ReaderId, wants: Range<u32>) {
        self.mail.lock().places.insert(reader, (task, wants));
        self.arrived.notify_one();
    }

    /// Waits for mail. Cancel-safe.
    pub(super) async fn arrived(&self) {
        self.arrived.notified().await;
    }

    /// Takes all mail.
    pub(super) fn take(&self) -> Mail {
        mem::take(&mut self.mail.lock())
    }
}
