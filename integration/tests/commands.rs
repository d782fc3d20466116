//! The command line as a process: every command that `--help` names explains itself, refuses
//! what makes no sense with a hint, and writes no colour where nobody looks.

use std::process::Output;

use anyhow::{Context as _, Result, ensure};
use darter_integration::{darter::binary, process::output};
use tokio::process::Command;

async fn darter(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(binary());
    // A terminal that has colours, were it one.
    command.args(arguments).env("TERM", "xterm-256color");
    let output = output(&mut command).await?;
    for stream in [&output.stdout, &output.stderr] {
        ensure!(!stream.contains(&0x1b), "{arguments:?} writes colours");
    }
    Ok(output)
}

/// The commands below one, as its help lists them.
fn listed(help: &str) -> Vec<String> {
    let lines = help.lines().skip_while(|line| *line != "Commands:").skip(1);
    let lines = lines.take_while(|line| !line.is_empty());
    let names = lines.filter(|line| line.starts_with("  ") && !line.starts_with("   "));
    let names = names.filter_map(|line| line.split_whitespace().next());
    names
        .filter(|name| *name != "help")
        .map(str::to_owned)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_command_explains_itself_and_refuses_nonsense() -> Result<()> {
    let (mut open, mut seen) = (vec![String::new()], 0);
    while let Some(name) = open.pop() {
        let words: Vec<&str> = name.split_whitespace().collect();
        let help = darter(&[&words[..], &["--help"]].concat()).await?;
        ensure!(help.status.code() == Some(0), "{name} --help");
        let text = String::from_utf8(help.stdout)?;
        ensure!(
            text.contains("Examples:\n  darter "),
            "{name} has no examples"
        );
        let nonsense = darter(&[&words[..], &["--nonsense"]].concat()).await?;
        let said = String::from_utf8(nonsense.stderr)?;
        ensure!(nonsense.status.code() == Some(2), "{name}: {said}");
        ensure!(
            said.contains("--help"),
            "{name} does not say what to do: {said}"
        );
        open.extend(listed(&text).iter().map(|sub| format!("{name} {sub}")));
        seen += 1;
    }
    ensure!(seen > 20, "{seen} commands");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_for_scripts_is_one_json_object() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let at = |name: &str| dir.path().join(name).display().to_string();
    let (ca, root) = (at("ca"), at("root"));
    std::fs::create_dir_all(&root)?;
    let made = darter(&["ca", "init", "--data", &ca]).await?;
    ensure!(made.status.success());
    let small = ["simulate", "--hosts", "5", "--size", "5MB", "--json"];
    for line in [
        &["ca", "show", "--json", "--data", &ca][..],
        &["setup", "containerd", "--json", "--root", &root],
        &small,
    ] {
        let output = darter(line).await?;
        ensure!(output.status.code() == Some(0), "{line:?}: {output:?}");
        let value: serde_json::Value =
            serde_json::from_slice(&output.stdout).with_context(|| format!("{line:?}"))?;
        ensure!(value.is_object(), "{line:?}: {value}");
    }
    // What fails says so by its code, and what to do by its words.
    let output = darter(&["ca", "show", "--data", &at("nothing")]).await?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr)?;
    ensure!(said.contains("darter ca init"), "{said}");
    let taken = std::net::TcpListener::bind("127.0.0.1:0")?;
    let (port, data) = (taken.local_addr()?.to_string(), at("scheduler"));
    let flags = [
        "--listen",
        "127.0.0.1:0",
        "--operations-listen",
        &port,
        "--data",
        &data,
    ];
    let output = darter(&[&["scheduler"], &flags[..]].concat()).await?;
    ensure!(output.status.code() == Some(1), "{output:?}");
    let said = String::from_utf8(output.stderr)?;
    ensure!(said.contains("(--operations-listen)"), "{said}");
    Ok(())
}
