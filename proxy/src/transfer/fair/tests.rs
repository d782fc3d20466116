//! Slots in virtual time.

use futures::{FutureExt as _, future::join_all};

use super::*;

const PIECE: u64 = 1 << 20;
/// As `turns` has it.
const STALE: Duration = Duration::from_secs(16);

fn child(name: u8) -> Child {
    [name].into()
}

fn take(slots: &Slots, name: u8) -> Option<Slot> {
    let acquire = slots.acquire(child(name), Class::Foreground, PIECE);
    acquire.now_or_never().and_then(Result::ok)
}

#[tokio::test]
async fn children_take_turns() {
    let slots = Slots::new(1, 10);
    let first = take(&slots, 0).unwrap();
    let order = Arc::new(Mutex::new(Vec::new()));
    let wait = |name: u8| {
        let (slots, order) = (slots.clone(), Arc::clone(&order));
        async move {
            let slot = slots
                .acquire(child(name), Class::Foreground, PIECE)
                .await
                .unwrap();
            order.lock().push(name);
            tokio::task::yield_now().await;
            drop(slot);
        }
    };
    let mut all = Box::pin(join_all([wait(1), wait(1), wait(1), wait(2), wait(3)]));
    assert!(all.as_mut().now_or_never().is_none());
    drop(first);
    all.await;
    assert_eq!(*order.lock(), [1, 2, 3, 1, 1]);
}

/// One child reads a hundred times slower than the other; both always want more.
#[tokio::test(start_paused = true)]
async fn a_slow_child_has_no_more_slots_than_a_fast_one() {
    let slots = Slots::new(4, 100);
    let pull = |name: u8, took: Duration| {
        let slots = slots.clone();
        async move {
            let mut pieces = 0_u32;
            let end = Instant::now() + Duration::from_secs(60);
            while Instant::now() < end {
                if let Ok(mut slot) = slots.acquire(child(name), Class::Foreground, PIECE).await {
                    tokio::time::sleep(took).await;
                    slot.ends();
                    pieces += 1;
                }
            }
            pieces
        }
    };
    let slow = join_all((0..8).map(|_| pull(1, Duration::from_secs(5))));
    let fast = join_all((0..8).map(|_| pull(2, Duration::from_millis(50))));
    let (_, fast) = tokio::join!(slow, fast);
    let pieces: u32 = fast.iter().sum();
    // Two slots' worth, of 1200 pieces each.
    assert!(pieces > 2000, "{pieces}");
}

#[tokio::test(start_paused = true)]
async fn a_full_queue_is_busy_and_who_leaves_is_skipped() {
    let slots = Slots::new(1, 1);
    let first = take(&slots, 0).unwrap();
    let mut second = Box::pin(slots.acquire(child(1), Class::Foreground, PIECE));
    assert!(second.as_mut().now_or_never().is_none());
    let full = slots
        .acquire(child(2), Class::Foreground, PIECE)
        .now_or_never();
    assert_eq!(full.unwrap().unwrap_err(), Busy);
    drop(second);
    // Its place is free at once.
    let mut third = Box::pin(slots.acquire(child(2), Class::Foreground, PIECE));
    assert!(third.as_mut().now_or_never().is_none());
    drop(first);
    let third = third.now_or_never().unwrap();
    assert!(third.is_ok());
    assert!(take(&slots, 3).is_none());
    // A slot that was on its way to who leaves is nobody's loss.
    let mut gone = Box::pin(slots.acquire(child(4), Class::Foreground, PIECE));
    assert!(gone.as_mut().now_or_never().is_none());
    drop(third);
    drop(gone);
    assert!(take(&slots, 5).is_some());
}

#[tokio::test(start_paused = true)]
async fn a_slot_that_is_held_for_long_goes_to_who_waits_and_not_to_who_comes() {
    let slots = Slots::new(1, 10);
    let stuck = take(&slots, 0).unwrap();
    tokio::time::sleep(STALE - Duration::from_secs(1)).await;
    let mut waits = Box::pin(slots.acquire(child(1), Class::Foreground, PIECE));
    assert!(waits.as_mut().now_or_never().is_none());
    tokio::time::sleep(Duration::from_secs(2)).await;
    assert!(take(&slots, 2).is_none(), "another waits for it");
    let slot = waits.now_or_never().unwrap();
    assert!(slot.is_ok());
    drop(stuck);
    assert!(take(&slots, 3).is_none(), "it was given back once");
}

#[tokio::test(start_paused = true)]
async fn who_waits_too_long_hears_that_the_host_is_busy() {
    let slots = Slots::new(1, 10);
    let _held = take(&slots, 0).unwrap();
    let begin = Instant::now();
    let late = slots.acquire(child(1), Class::Foreground, PIECE).await;
    assert_eq!(late.unwrap_err(), Busy);
    assert!(begin.elapsed() < Duration::from_secs(5));
}

#[tokio::test(start_paused = true)]
async fn the_foreground_does_not_wait_for_the_background_nor_this_for_ever() {
    let slots = Slots::new(2, 10);
    let background = |name| {
        slots
            .acquire(child(name), Class::Background, PIECE)
            .now_or_never()
    };
    let ahead = [background(1), background(1)];
    assert!(ahead.iter().flatten().all(Result::is_ok));
    assert!(background(1).is_none());
    let pulls = [take(&slots, 2), take(&slots, 3)];
    assert!(pulls.iter().all(Option::is_some));
    assert!(take(&slots, 4).is_none());
    drop(ahead);
    assert!(background(1).is_some(), "one beside the foreground");
    assert!(take(&slots, 4).is_none());
}
