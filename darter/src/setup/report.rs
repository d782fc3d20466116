//! What was done, or would be: for people and for scripts.

use std::process::ExitCode;

use anyhow::Result;
use serde_json::json;

use super::{
    Mirror, Setup,
    files::Root,
    plan::Plan,
    record::{PATH, Undone},
};

/// Of `--write` and `--print`.
pub(super) fn planned(
    plan: &Plan,
    mirror: &Mirror,
    root: &Root,
    options: &Setup,
) -> Result<ExitCode> {
    let then = once(plan.changes.iter().filter_map(|change| change.then));
    let client = options.client.name();
    if options.json {
        // The lines that change, not the whole file: that may hold secrets.
        let changes = plan.changes.iter().map(|change| {
            let path = root.shown(&change.path);
            json!({"path": path, "new": change.now.is_none(), "lines": change.lines()})
        });
        let whole = json!({
            "client": client,
            "mirror": mirror.to_string(),
            "written": options.write,
            "changes": changes.collect::<Vec<_>>(),
            "then": then,
            "notes": plan.notes,
        });
        println!("{}", serde_json::to_string_pretty(&whole)?);
        return Ok(ExitCode::SUCCESS);
    }
    for note in &plan.notes {
        eprintln!("darter: {note}");
    }
    if plan.changes.is_empty() {
        println!("{client} uses {mirror} already: nothing to do");
        return Ok(ExitCode::SUCCESS);
    }
    for change in &plan.changes {
        if options.write {
            println!("wrote {}", root.shown(&change.path));
        } else {
            print!("{}", change.describe());
        }
    }
    say(&then);
    println!(
        "{}",
        if options.write {
            "see whether it works: darter doctor; take it back: --undo"
        } else {
            "nothing was written: say --write"
        }
    );
    Ok(ExitCode::SUCCESS)
}

/// Of `--undo`.
pub(super) fn undone(undone: &Undone, root: &Root, options: &Setup) -> Result<ExitCode> {
    let shown = |paths: &[String]| -> Vec<String> {
        let paths = paths.iter().map(|path| root.shown(path));
        paths.collect()
    };
    let then = once(undone.then.iter().map(String::as_str));
    let (restored, removed) = (shown(&undone.restored), shown(&undone.removed));
    let left = shown(&undone.left);
    let code = match left.is_empty() {
        true => ExitCode::SUCCESS,
        false => ExitCode::FAILURE,
    };
    if options.json {
        let client = options.client.name();
        let whole = json!({
            "client": client, "restored": restored, "removed": removed, "left": left,
            "then": then,
        });
        println!("{}", serde_json::to_string_pretty(&whole)?);
        return Ok(code);
    }
    for path in &restored {
        println!("restored {path}");
    }
    for path in &removed {
        println!("removed {path}");
    }
    say(&then);
    if restored.is_empty() && removed.is_empty() && left.is_empty() {
        println!("nothing to take back for {}", options.client.name());
    }
    for path in &left {
        eprintln!(
            "darter: {path} was changed by somebody since, and is left as it is; what it was before is kept in {}",
            root.shown(PATH)
        );
    }
    Ok(code)
}

/// What has to be restarted, each once.
fn once<'a>(commands: impl Iterator<Item = &'a str>) -> Vec<&'a str> {
    let mut all: Vec<&str> = Vec::new();
    for command in commands {
        if !all.contains(&command) {
            all.push(command);
        }
    }
    all
}

fn say(then: &[&str]) {
    for command in then {
        println!("now: {command}");
    }
}
