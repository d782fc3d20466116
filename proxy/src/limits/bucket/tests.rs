//! The bucket's promises over random histories.

use proptest::prelude::*;

use super::*;

const SECOND: Duration = Duration::from_secs(1);

fn rate(bytes: u64) -> Option<NonZeroU64> {
    NonZeroU64::new(bytes)
}

/// Who asks for how much, and after which pause.
#[derive(Debug, Clone)]
struct Ask {
    pause: Duration,
    class: Class,
    bytes: u64,
}

fn asks() -> impl Strategy<Value = Vec<Ask>> {
    let ask = (0..200_000_000_u64, any::<bool>(), 1..=PORTION);
    let ask = ask.prop_map(|(pause, foreground, bytes)| Ask {
        // Most come close together.
        pause: Duration::from_nanos(if pause % 4 == 0 { pause } else { pause % 1000 }),
        class: if foreground {
            Class::Foreground
        } else {
            Class::Background
        },
        bytes,
    });
    prop::collection::vec(ask, 1..80)
}

/// What passed when: plays `asks`, waking when the bucket says.
fn play(bucket: &mut Bucket, asks: &[Ask]) -> Vec<(Duration, Ask)> {
    let mut now = Duration::ZERO;
    let mut waiting: Vec<(Ticket, Ask)> = Vec::new();
    let mut passed = Vec::new();
    let mut coming = asks.iter().peekable();
    let mut due = coming.peek().map(|ask| ask.pause);
    loop {
        let wake = bucket.deadline(now, None);
        now = match (wake, due) {
            (Some(wake), Some(due)) => wake.min(due).max(now),
            (Some(one), None) | (None, Some(one)) => one.max(now),
            (None, None) => return passed,
        };
        if due.is_some_and(|due| due <= now)
            && let Some(ask) = coming.next()
        {
            waiting.push((bucket.enqueue(ask.class, ask.bytes), ask.clone()));
            due = coming.peek().map(|ask| now + ask.pause);
        }
        for ticket in bucket.grant(now, None) {
            let place = waiting.iter().position(|(one, _)| *one == ticket).unwrap();
            passed.push((now, waiting.remove(place).1));
        }
    }
}

proptest! {
    #[test]
    fn never_more_than_the_rate_and_a_burst(bytes in 1_000..2_000_000_000_u64, asks in asks()) {
        let limit = rate(bytes).unwrap();
        let passed = play(&mut Bucket::new(Duration::ZERO, Some(limit)), &asks);
        prop_assert_eq!(passed.len(), asks.len(), "nobody waits for ever");
        for first in 0..passed.len() {
            let mut sum = 0_u128;
            for (at, ask) in &passed[first..] {
                sum += u128::from(ask.bytes);
                let span = (*at - passed[first].0).as_nanos();
                let most = u128::from(bytes) * span / UNIT + u128::from(burst(limit)) + 1;
                prop_assert!(sum <= most, "{sum} of {most} bytes in {span} ns");
            }
        }
    }

    #[test]
    fn nobody_waits_while_there_are_tokens(bytes in 1_000..2_000_000_000_u64, mut asks in asks()) {
        for ask in &mut asks {
            ask.pause = Duration::ZERO;
        }
        let limit = rate(bytes).unwrap();
        let passed = play(&mut Bucket::new(Duration::ZERO, Some(limit)), &asks);
        let sum: u128 = asks.iter().map(|ask| u128::from(ask.bytes)).sum();
        let rest = sum.saturating_sub(u128::from(burst(limit)));
        let took = passed.last().unwrap().0.as_nanos();
        // A nanosecond is lost at each waking.
        let ideal = (rest * UNIT).div_ceil(u128::from(bytes)) + passed.len() as u128;
        prop_assert!(took <= ideal, "{took} ns instead of {ideal}");
    }

    #[test]
    fn transfers_of_a_class_take_turns(bytes in 100_000..50_000_000_u64, transfers in 2..9_usize) {
        let mut bucket = Bucket::new(Duration::ZERO, rate(bytes));
        let mut tickets: Vec<Ticket> = (0..transfers)
            .map(|_| bucket.enqueue(Class::Foreground, PORTION))
            .collect();
        let mut passed = vec![0; transfers];
        let mut now = Duration::ZERO;
        for _ in 0..200 {
            for ticket in bucket.grant(now, None) {
                let who = tickets.iter().position(|one| *one == ticket).unwrap();
                passed[who] += 1;
                tickets[who] = bucket.enqueue(Class::Foreground, PORTION);
            }
            now = bucket.deadline(now, None).unwrap();
        }
        let (least, most) = (passed.iter().min().unwrap(), passed.iter().max().unwrap());
        prop_assert!(most - least <= 1, "{passed:?}");
    }

    #[test]
    fn the_background_gets_its_floor_and_no_more_beside_a_greedy_foreground(
        bytes in 262_144..100_000_000_u64,
        small in PORTION / 16..PORTION,
    ) {
        let limit = rate(bytes);
        let mut bucket = Bucket::new(Duration::ZERO, limit);
        let portion = bucket.portion();
        let mut behind = bucket.enqueue(Class::Background, portion);
        let (mut now, mut since, mut longest) = (Duration::ZERO, Duration::ZERO, Duration::ZERO);
        let mut background = 0;
        // More than passes until it can ask again.
        for _ in 0..=2 * burst(limit.unwrap()) / small {
            bucket.enqueue(Class::Foreground, small);
        }
        while now < 4 * SECOND {
            for ticket in bucket.grant(now, None) {
                if ticket == behind {
                    background += portion;
                    longest = longest.max(now - since);
                    since = now;
                    behind = bucket.enqueue(Class::Background, portion);
                } else {
                    bucket.enqueue(Class::Foreground, small);
                }
            }
            // A waking a little late is what timers do.
            now = bucket.deadline(now, None).unwrap() + Duration::from_micros(200);
        }
        let floor = bytes * FLOOR_PERCENT / 100 * 4;
        prop_assert!(background <= floor + 2 * PORTION, "{background} of {floor}");
        let least = floor.saturating_sub(2 * PORTION) * 80 / 100;
        prop_assert!(background >= least, "{background} of {floor}");
        let patience = 2.5 * portion as f64 / (bytes as f64 * 0.05);
        let patience = Duration::from_secs_f64(patience) + Duration::from_millis(5);
        prop_assert!(longest <= patience, "{longest:?} of {patience:?}");
    }
}

#[test]
fn without_a_rate_only_the_background_waits_and_only_while_the_foreground_is_busy() {
    let mut bucket = Bucket::new(Duration::ZERO, None);
    let busy = Some(100_000_000);
    let first = bucket.enqueue(Class::Foreground, PORTION);
    let second = bucket.enqueue(Class::Background, PORTION);
    assert_eq!(bucket.grant(Duration::ZERO, busy), [first]);
    assert!(bucket.is_waiting(Class::Background, second));
    let again = bucket.deadline(Duration::ZERO, busy).unwrap();
    assert_eq!(again, Duration::from_nanos(13_107_200), "5 MB/s");
    assert_eq!(bucket.grant(again, busy), [second]);
    let third = bucket.enqueue(Class::Background, PORTION);
    assert_eq!(bucket.grant(again, busy), []);
    assert_eq!(bucket.grant(again, None), [third], "the foreground rests");
}

#[test]
fn what_the_foreground_leaves_goes_to_the_background() {
    let mut bucket = Bucket::new(Duration::ZERO, rate(1_000_000));
    for _ in 0..15 {
        bucket.enqueue(Class::Background, PORTION);
    }
    let first = bucket.enqueue(Class::Foreground, 1000);
    assert_eq!(bucket.grant(Duration::ZERO, None).first(), Some(&first));
    let mut now = Duration::ZERO;
    while let Some(next) = bucket.deadline(now, None) {
        now = next;
        bucket.grant(now, None);
    }
    let all = (15.0 * PORTION as f64 + 1000.0 - PORTION as f64) / 1e6;
    assert!((now.as_secs_f64() - all).abs() < 0.001, "{now:?}");
}

#[test]
fn a_change_counts_from_then_on() {
    let mut bucket = Bucket::new(Duration::ZERO, None);
    bucket.set_rate(Duration::ZERO, rate(1_000_000));
    let tickets: Vec<Ticket> = (0..3)
        .map(|_| bucket.enqueue(Class::Foreground, PORTION))
        .collect();
    assert_eq!(bucket.grant(Duration::ZERO, None), tickets[..1], "a burst");
    assert!(bucket.cancel(Class::Foreground, tickets[1]));
    assert!(!bucket.cancel(Class::Foreground, tickets[1]));
    bucket.set_rate(Duration::ZERO, rate(100_000_000));
    let due = bucket.deadline(Duration::ZERO, None).unwrap();
    assert_eq!(due, Duration::from_nanos(655_360));
    bucket.set_rate(Duration::ZERO, None);
    assert_eq!(bucket.grant(Duration::ZERO, None), tickets[2..]);
}
