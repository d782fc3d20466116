//! What a swarm must achieve.

use crate::{Report, Scenario};

fn play(name: &str, scenario: &Scenario) -> Report {
    let report = scenario.run();
    println!("{name}: {report}");
    report
}

/// Ten hosts at 100 Mbit/s, a seed that is no faster, a source at 200, 100 MB.
#[test]
fn ten_hosts_come_near_the_bound_with_one_copy() {
    let report = play("ten hosts", &Scenario::default());
    assert!(report.all_completed());
    assert!(report.origin_copies() <= 1.0001, "{report}");
    assert!(report.over_bound() <= 1.15, "{report}");
}
