//! Once a second: what passed, and what the node can bear.
//!
//! Owner of state: the task. Linux tells by `/proc` and `/sys`; what can't be read there is
//! no strain. In a container the interface is the container's own and its speed is often not
//! told: then CPU and disk alone are followed.

use std::{num::NonZeroU64, path::Path, sync::atomic::Ordering, time::Duration};

use tokio::time::{Instant, MissedTickBehavior};

use super::{
    Class, Limits, Options,
    adaptive::{Controller, Cpu, Link, Sample},
};

const EVERY: Duration = Duration::from_secs(1);

impl Limits {
    /// Shows what is used, and adapts if the options say so, until it is dropped.
    pub async fn watch(self, options: Options) {
        let floor = NonZeroU64::new(options.adaptive_floor.as_u64()).unwrap_or(NonZeroU64::MIN);
        let mut controller = options.adaptive.then(|| Controller::new(floor));
        let mut meter = Meter::new(&self);
        let mut ticks = tokio::time::interval(EVERY);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // The first one comes at once.
        ticks.tick().await;
        loop {
            ticks.tick().await;
            let mut sample = meter.used(&self);
            if let Some(controller) = &mut controller {
                meter.look_at_the_node(&self, &mut sample);
                self.allow(controller.step(&sample));
            }
        }
    }
}

/// Counters as they stood.
struct Meter {
    at: Instant,
    span: Duration,
    passed: [[u64; 2]; 4],
    writes: (u64, u64),
    cpu: Option<[u64; 3]>,
    /// Received and sent.
    link: Option<(u64, u64)>,
}

impl Meter {
    fn new(limits: &Limits) -> Self {
        let interface = interface();
        Self {
            at: Instant::now(),
            span: EVERY,
            passed: passed(limits),
            writes: writes(limits),
            cpu: cpu(),
            link: interface.and_then(|name| traffic_of(&name)),
        }
    }

    /// Sets the shown rates, and begins a sample.
    fn used(&mut self, limits: &Limits) -> Sample {
        self.span = self.at.elapsed().max(Duration::from_millis(1));
        self.at = Instant::now();
        let before = std::mem::replace(&mut self.passed, passed(limits));
        let mut sample = Sample::default();
        for lane in &limits.0.lanes {
            let index = lane.direction as usize;
            for (place, class) in [Class::Foreground, Class::Background]
                .into_iter()
                .enumerate()
            {
                let rate = self.per_second(self.passed[index][place] - before[index][place]);
                lane.lot(class).used.store(rate, Ordering::Relaxed);
                limits.0.metrics.used(lane.direction, class, rate);
                sample.used[index] = sample.used[index].saturating_add(rate);
            }
        }
        sample
    }

    fn look_at_the_node(&mut self, limits: &Limits, sample: &mut Sample) {
        let (count, nanos) = writes(limits);
        let (old_count, old_nanos) = std::mem::replace(&mut self.writes, (count, nanos));
        let mean = nanos
            .saturating_sub(old_nanos)
            .checked_div(count - old_count);
        sample.write = mean.map(Duration::from_nanos);
        let (before, now) = (self.cpu, cpu());
        self.cpu = now;
        sample.cpu = before
            .zip(now)
            .and_then(|(before, now)| shares(before, now));
        let interface = interface();
        let before = self.link;
        self.link = interface.as_deref().and_then(traffic_of);
        let speed = interface.as_deref().and_then(speed_of);
        sample.link = before
            .zip(self.link)
            .zip(speed)
            .map(|((before, now), speed)| Link {
                received: self.per_second(now.0.saturating_sub(before.0)),
                sent: self.per_second(now.1.saturating_sub(before.1)),
                speed,
            });
    }

    fn per_second(&self, bytes: u64) -> u64 {
        let rate = u128::from(bytes) * 1_000_000_000 / self.span.as_nanos();
        u64::try_from(rate).unwrap_or(u64::MAX)
    }
}

fn passed(limits: &Limits) -> [[u64; 2]; 4] {
    let mut passed = [[0; 2]; 4];
    for lane in &limits.0.lanes {
        let of = |class| lane.lot(class).passed.bytes.get();
        passed[lane.direction as usize] = [of(Class::Foreground), of(Class::Background)];
    }
    passed
}

fn writes(limits: &Limits) -> (u64, u64) {
    let count = limits.0.writes.load(Ordering::Relaxed);
    (count, limits.0.write_nanos.load(Ordering::Relaxed))
}

/// Ticks of all CPUs, those of them that were idle, and this process's.
fn cpu() -> Option<[u64; 3]> {
    let (all, idle) = all_ticks(&read("/proc/stat")?)?;
    Some([all, idle, own_ticks(&read("/proc/self/stat")?)?])
}

fn shares(before: [u64; 3], now: [u64; 3]) -> Option<Cpu> {
    let grown = |place: usize| now[place].saturating_sub(before[place]) as f64;
    let all = grown(0);
    (all > 0.0).then(|| Cpu {
        busy: 1.0 - grown(1) / all,
        own: grown(2) / all,
    })
}

/// The interface of the default route.
fn interface() -> Option<String> {
    default_route(&read("/proc/net/route")?)
}

fn traffic_of(interface: &str) -> Option<(u64, u64)> {
    traffic(&read("/proc/net/dev")?, interface)
}

/// Bytes a second, where the driver tells.
fn speed_of(interface: &str) -> Option<u64> {
    let path = Path::new("/sys/class/net").join(interface).join("speed");
    let megabits: i64 = std::fs::read_to_string(path).ok()?.trim().parse().ok()?;
    let megabits = u64::try_from(megabits).ok().filter(|speed| *speed > 0)?;
    megabits.checked_mul(125_000)
}

fn read(path: &str) -> Option<String> {
    std::fs::read_to_string(path).ok()
}

/// All ticks and the idle ones (idle, iowait) of `/proc/stat`, see proc_stat(5). Guests'
/// ticks, the ninth and tenth, are in the first two.
fn all_ticks(stat: &str) -> Option<(u64, u64)> {
    let numbers = stat
        .lines()
        .next()?
        .strip_prefix("cpu ")?
        .split_whitespace();
    let ticks: Vec<u64> = numbers
        .take(8)
        .map_while(|text| text.parse().ok())
        .collect();
    Some((ticks.iter().sum(), ticks.get(3)? + ticks.get(4)?))
}

/// utime and stime of `/proc/self/stat`, the 14th and 15th field, see proc_pid_stat(5).
fn own_ticks(stat: &str) -> Option<u64> {
    // The second field may have spaces in it, and ends with the last bracket.
    let (_, rest) = stat.rsplit_once(')')?;
    let mut fields = rest.split_whitespace().skip(11);
    let mut next = || fields.next()?.parse::<u64>().ok();
    Some(next()? + next()?)
}

fn default_route(routes: &str) -> Option<String> {
    let mut lines = routes.lines().skip(1).map(str::split_whitespace);
    lines.find_map(|mut fields| {
        let (name, destination) = (fields.next()?, fields.next()?);
        (destination == "00000000").then(|| name.to_owned())
    })
}

/// Bytes received and sent, the first and ninth number of `/proc/net/dev`.
fn traffic(devices: &str, interface: &str) -> Option<(u64, u64)> {
    let mut lines = devices.lines().filter_map(|line| line.split_once(':'));
    let (_, numbers) = lines.find(|(name, _)| name.trim() == interface)?;
    let mut numbers = numbers.split_whitespace();
    Some((numbers.next()?.parse().ok()?, numbers.nth(7)?.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn linux_is_understood() {
        let stat = "cpu  10 1 20 300 40 5 6 7 8 9\ncpu0 1 2\n";
        assert_eq!(all_ticks(stat), Some((389, 340)));
        let own = "42 (a (b) c) S 1 2 3 4 5 6 7 8 9 10 70 30 0 0 20 0\n";
        assert_eq!(own_ticks(own), Some(100));
        let routes = "Iface\tDestination\tGateway\neth1\t0000A8C0\t0\neth0\t00000000\t0102A8C0\n";
        assert_eq!(default_route(routes).as_deref(), Some("eth0"));
        let devices = "Inter-|   Receive\n face |bytes\n    lo: 1 2 3 4 5 6 7 8 9\n  eth0:100 2 3 4 5 6 7 8 900 10\n";
        assert_eq!(traffic(devices, "eth0"), Some((100, 900)));
        assert_eq!(traffic(devices, "eth9"), None);
        for nonsense in ["", "cpu ", "cpu x", "\n\n", ")", "a:b"] {
            assert_eq!(all_ticks(nonsense), None);
            assert_eq!(own_ticks(nonsense), None);
            assert_eq!(default_route(nonsense), None);
            assert_eq!(traffic(nonsense, "a"), None);
        }
        let shares = shares([0, 0, 0], [100, 25, 50]);
        assert_eq!(
            shares,
            Some(Cpu {
                busy: 0.75,
                own: 0.5
            })
        );
    }

    #[test]
    fn this_machine_tells_its_cpu() {
        assert!(cpu().is_some());
    }
}
