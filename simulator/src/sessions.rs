//! The sessions between hosts and schedulers, as the proxy's shell and the scheduler's
//! service make them: tried again from 100 ms on, doubled up to 600 ms, later 2 s; refused
//! where there is no scheduler.

use std::time::Duration;

use darter_api::{
    SchedulerName, Timestamp,
    session::{Hello, Locality, PeerMessage, SchedulerMessage},
};
use darter_proxy::swarm::core::event::Event;
use darter_scheduler::core as scheduling;
use rand::RngExt as _;

use crate::{
    control::is_welcome,
    host::Line,
    network::Place,
    world::{Happening, World},
};

/// A host says so often what it has to do.
pub(crate) const BEAT: Duration = Duration::from_secs(1);

impl World {
    fn number(&self, name: &SchedulerName) -> Option<usize> {
        self.controls.iter().position(|one| one.name == *name)
    }

    /// A host says something to a scheduler.
    pub(crate) fn tells(&mut self, host: Place, name: &SchedulerName, message: PeerMessage) {
        let Some(scheduler) = self.number(name) else {
            return;
        };
        if let Some(session) = self.hosts[host].session(scheduler) {
            let takes = self.scenario.latency + self.controls[scheduler].delay;
            let says = Happening::Says(host, scheduler, session, Box::new(message));
            self.queue.put(self.now + takes, says);
        }
    }

    /// A host wants a session. At the beginning not all of them at the same moment.
    pub(crate) fn opens(&mut self, host: Place, name: &SchedulerName) {
        let Some(scheduler) = self.number(name) else {
            return;
        };
        self.hosts[host].lines.insert(scheduler, Line::default());
        let jitter = if self.now == Timestamp::ZERO {
            Duration::from_micros(self.rng.random_range(0..100_000))
        } else {
            Duration::ZERO
        };
        let connects = Happening::Connects(host, scheduler);
        self.queue.put(self.now + jitter, connects);
    }

    /// A host wants it no more.
    pub(crate) fn closes(&mut self, host: Place, name: &SchedulerName) {
        let Some(scheduler) = self.number(name) else {
            return;
        };
        let line = self.hosts[host].lines.remove(&scheduler);
        if let Some(session) = line.and_then(|line| line.session) {
            let takes = self.scenario.latency + self.controls[scheduler].delay;
            let misses = Happening::Misses(host, scheduler, session);
            self.queue.put(self.now + takes, misses);
        }
    }

    fn connects_later(&mut self, host: Place, scheduler: usize) {
        let Some(line) = self.hosts[host].lines.get_mut(&scheduler) else {
            return;
        };
        let tries = line.tries;
        line.tries += 1;
        // Twenty seconds of it, then two seconds at most.
        let most = if tries < 35 { 600 } else { 2000 };
        let pause = Duration::from_millis((100 << tries.min(5)).min(most));
        let pause = pause.mul_f64(self.rng.random_range(0.9..1.1));
        let connects = Happening::Connects(host, scheduler);
        self.queue.put(self.now + pause, connects);
    }

    pub(crate) fn connects(&mut self, host: Place, scheduler: usize) {
        if !self.hosts[host].alive || !self.hosts[host].lines.contains_key(&scheduler) {
            return;
        }
        if self.controls[scheduler].cluster.is_none() {
            let name = self.controls[scheduler].name.clone();
            self.handle(host, Event::SessionRefused(name));
            self.connects_later(host, scheduler);
            return;
        }
        let peer = &mut self.hosts[host];
        peer.sessions += 1;
        let session = peer.sessions;
        if let Some(line) = peer.lines.get_mut(&scheduler) {
            line.session = Some(session);
        }
        let greets = Happening::Greets(host, scheduler, session);
        let takes = self.scenario.latency * 3 + self.controls[scheduler].delay;
        self.queue.put(self.now + takes, greets);
    }

    pub(crate) fn greets(&mut self, host: Place, scheduler: usize, session: u64) {
        if self.controls[scheduler].cluster.is_none() {
            let loses = Happening::Loses(host, scheduler, session);
            self.queue.put(self.now + self.scenario.latency, loses);
            return;
        }
        if self.hosts[host].session(scheduler) != Some(session) {
            return;
        }
        self.controls[scheduler].sessions.insert(host, session);
        let peer = &self.hosts[host];
        let hello = Hello {
            host: peer.id,
            epoch: session,
            name: format!("host {host}"),
            address: ([127, 0, 0, 1], 4000).into(),
            role: peer.role,
            locality: Locality {
                idc: peer.zone_name(self.scenario.zones),
                ..Locality::default()
            },
            upload_slots: self.scenario.transfer.upload_slots as u32,
            cores: None,
            shares: true,
            version: String::new(),
        };
        self.tell_scheduler(scheduler, scheduling::Event::HostUp(hello));
    }

    pub(crate) fn says(
        &mut self,
        host: Place,
        scheduler: usize,
        session: u64,
        message: PeerMessage,
    ) {
        if self.controls[scheduler].sessions.get(&host) != Some(&session) {
            return;
        }
        self.trace_said(host, &message);
        self.said.peer(&message);
        let control = &mut self.controls[scheduler];
        let id = self.hosts[host].id;
        let event = if message == PeerMessage::Resting {
            control.sessions.remove(&host);
            scheduling::Event::HostRests {
                host: id,
                epoch: session,
            }
        } else {
            scheduling::Event::Message { host: id, message }
        };
        self.tell_scheduler(scheduler, event);
    }

    pub(crate) fn hears(
        &mut self,
        host: Place,
        scheduler: usize,
        session: u64,
        message: SchedulerMessage,
    ) {
        if self.hosts[host].session(scheduler) != Some(session) {
            return;
        }
        self.trace_heard(host, &message);
        self.said.scheduler(&message);
        let name = self.controls[scheduler].name.clone();
        if is_welcome(&message) {
            if let Some(line) = self.hosts[host].lines.get_mut(&scheduler) {
                line.tries = 0;
            }
            self.handle(host, Event::SessionUp(name.clone()));
        }
        self.handle(host, Event::Session(name, message));
    }

    /// A host says what it has to do, as the proxy's driver does; only that it says so counts here.
    pub(crate) fn beats(&mut self, host: Place) {
        let peer = &self.hosts[host];
        if !peer.alive {
            return;
        }
        let load = PeerMessage::Load {
            uploads: 0,
            downloads: peer.requests.len() as u32,
            upload_bytes: 0,
        };
        self.handle(host, Event::Say(load));
        self.queue.put(self.now + BEAT, Happening::Beats(host));
    }

    pub(crate) fn loses(&mut self, host: Place, scheduler: usize, session: u64) {
        let line = self.hosts[host].lines.get_mut(&scheduler);
        let Some(line) = line.filter(|line| line.session == Some(session)) else {
            return;
        };
        line.session = None;
        let name = self.controls[scheduler].name.clone();
        self.handle(host, Event::SessionDown(name));
        self.connects_later(host, scheduler);
    }

    pub(crate) fn misses(&mut self, host: Place, scheduler: usize, epoch: u64) {
        let sessions = &mut self.controls[scheduler].sessions;
        if sessions.get(&host) == Some(&epoch) {
            sessions.remove(&host);
        }
        let host = self.hosts[host].id;
        self.tell_scheduler(scheduler, scheduling::Event::HostDown { host, epoch });
    }

    pub(crate) fn kill_scheduler(&mut self, scheduler: usize) {
        let sessions = self.controls[scheduler].sessions.clone();
        self.controls[scheduler].kill();
        for (host, session) in sessions {
            let loses = Happening::Loses(host, scheduler, session);
            self.queue.put(self.now + self.scenario.latency, loses);
        }
    }

    pub(crate) fn scheduler_tick(&mut self, scheduler: usize) {
        let control = &mut self.controls[scheduler];
        if control.deadline.is_some_and(|at| at <= self.now) {
            let commands = control.tick(self.now);
            self.scheduler_says(scheduler, commands);
        }
    }

    fn tell_scheduler(&mut self, scheduler: usize, event: scheduling::Event) {
        let commands = self.controls[scheduler].handle(self.now, event);
        self.scheduler_says(scheduler, commands);
    }

    fn scheduler_says(&mut self, scheduler: usize, commands: Vec<scheduling::Command>) {
        for command in commands {
            let Some(host) = self.places.get(&command.host).copied() else {
                continue;
            };
            let sessions = &self.controls[scheduler].sessions;
            if let Some(session) = sessions.get(&host).copied() {
                let message = Box::new(command.message);
                let hears = Happening::Hears(host, scheduler, session, message);
                self.queue.put(self.now + self.scenario.latency, hears);
            }
        }
        if let Some(at) = self.controls[scheduler].deadline {
            let tick = Happening::SchedulerTick(scheduler);
            self.queue.put(at.max(self.now), tick);
        }
    }
}
