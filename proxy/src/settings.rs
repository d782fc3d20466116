//! What the host's own file says and a manager sets over it, applied while the host runs.
//!
//! Owner of state: [`Settings`] has the last word of both; limits, slots and the host's place among
//! the seeds follow it. Failure: what makes no sense does not come so far. Addresses, directories,
//! keys and registries are the file's alone, and so is what shapes a swarm (`[proxy.swarm]`):
//! pieces under way were asked for by it.

use std::sync::Arc;

use darter_api::configuration::Configuration;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    limits::{Limits, Rates},
    transfer::{self, fair::Slots},
};

/// See the module. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Settings(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    said: Mutex<Said>,
    limits: Limits,
    slots: Slots,
    seed: watch::Sender<bool>,
}

#[derive(Debug)]
struct Said {
    rates: Rates,
    transfer: transfer::Options,
    seed: bool,
    set: Configuration,
}

impl Settings {
    /// Nothing is set yet: all is as the file has it.
    pub fn new(
        rates: Rates,
        transfer: transfer::Options,
        seed: bool,
        limits: Limits,
        slots: Slots,
    ) -> Self {
        let said = Said {
            rates,
            transfer,
            seed,
            set: Configuration::default(),
        };
        Self(Arc::new(Inner {
            said: Mutex::new(said),
            limits,
            slots,
            seed: watch::Sender::new(seed),
        }))
    }

    /// Whether the host is a seed, and every change of it.
    pub fn seed(&self) -> watch::Receiver<bool> {
        self.0.seed.subscribe()
    }

    /// A manager sets this.
    pub fn set(&self, set: Configuration) {
        let mut said = self.0.said.lock();
        said.set = set;
        self.apply(&said);
    }

    /// The file says other rates now.
    pub fn reread(&self, rates: Rates) -> Rates {
        let mut said = self.0.said.lock();
        said.rates = rates;
        self.apply(&said);
        said.rates.overlaid(&said.set.peer.rates)
    }

    /// Under the lock, so that the last word stays.
    fn apply(&self, said: &Said) {
        let peer = &said.set.peer;
        self.0.limits.set(said.rates.overlaid(&peer.rates));
        let count = |set: Option<u32>, own: usize| set.map_or(own, |set| set as usize);
        let own = &said.transfer;
        self.0.slots.set(
            count(peer.upload_slots, own.upload_slots),
            count(peer.upload_queue, own.upload_queue),
        );
        let seed = said.set.seed.unwrap_or(said.seed);
        self.0.seed.send_if_modified(|known| {
            let is_news = *known != seed;
            if is_news {
                tracing::info!(seed, "the host's role has changed");
            }
            *known = seed;
            is_news
        });
    }

    /// Applies what is set from now on, for as long as it is polled.
    pub async fn follow(self, mut set: watch::Receiver<Configuration>) {
        while set.changed().await.is_ok() {
            let newest = set.borrow_and_update().clone();
            self.set(newest);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU64;

    use darter_api::configuration::{PeerSettings, RateSettings};

    use super::*;

    #[test]
    fn what_is_set_counts_over_the_file_until_it_is_not() {
        let rate = |rate| Rates {
            upload: NonZeroU64::new(rate),
            ..Rates::default()
        };
        let limits = Limits::default();
        let slots = Slots::new(4, 4);
        let own = transfer::Options::default();
        let settings = Settings::new(rate(1 << 20), own, true, limits.clone(), slots);
        let seed = settings.seed();
        let holds = || *limits.configured().borrow();
        settings.set(Configuration {
            seed: Some(false),
            peer: PeerSettings {
                rates: RateSettings {
                    upload: Some(1 << 22),
                    ..RateSettings::default()
                },
                ..PeerSettings::default()
            },
            ..Configuration::default()
        });
        assert_eq!((holds(), *seed.borrow()), (rate(1 << 22), false));
        assert_eq!(settings.reread(rate(1 << 21)), rate(1 << 22));
        settings.set(Configuration::default());
        assert_eq!((holds(), *seed.borrow()), (rate(1 << 21), true));
    }
}
