//! `darter completions` and `darter man`: made from the command line's own definition, so that
//! they can't say anything else.

use std::{
    io::{self, Write as _},
    path::Path,
    process::ExitCode,
};

use anyhow::{Context as _, Result};
use clap::CommandFactory as _;
use clap_complete::Shell;
use clap_mangen::Man;

use crate::cli::Cli;

pub(crate) fn completions(shell: Shell) -> Result<ExitCode> {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "darter", &mut script);
    print(&script)
}

pub(crate) fn man(dir: Option<&Path>) -> Result<ExitCode> {
    let command = Cli::command();
    let Some(dir) = dir else {
        let mut page = Vec::new();
        Man::new(command).render(&mut page)?;
        return print(&page);
    };
    std::fs::create_dir_all(dir).with_context(|| format!("can't make {}", dir.display()))?;
    clap_mangen::generate_to(command, dir)
        .with_context(|| format!("can't write to {}", dir.display()))?;
    println!("wrote the pages to {}", dir.display());
    Ok(ExitCode::SUCCESS)
}

/// To standard output, whose reader may want only the beginning (`| head`).
fn print(text: &[u8]) -> Result<ExitCode> {
    match io::stdout().write_all(text) {
        Err(cause) if cause.kind() != io::ErrorKind::BrokenPipe => Err(cause.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

#[cfg(test)]
mod tests {
    use clap::{Command, Parser as _, ValueEnum as _};

    use super::*;

    /// Commands without `--json`: they run until a signal, or what they print is one thing, or
    /// nothing.
    const PLAIN: [&str; 14] = [
        "standalone",
        "proxy",
        "scheduler",
        "manager",
        "ca init",
        "ca token",
        "ca serve",
        "ca issue",
        "ca remove",
        "ca interception export",
        "ca interception install",
        "ca interception remove",
        "passwd",
        "completions",
    ];

    /// All commands that people see, by their whole names, those without commands of their own
    /// marked.
    fn commands() -> Vec<(String, Command, bool)> {
        fn walk(of: &Command, name: &str, found: &mut Vec<(String, Command, bool)>) {
            let seen = |sub: &&Command| !sub.is_hide_set() && sub.get_name() != "help";
            for sub in of.get_subcommands().filter(seen) {
                let whole = format!("{name} {}", sub.get_name()).trim().to_owned();
                found.push((whole.clone(), sub.clone(), !sub.has_subcommands()));
                walk(sub, &whole, found);
            }
        }
        let mut root = Cli::command();
        root.build();
        let mut found = Vec::new();
        walk(&root, "", &mut found);
        found
    }

    #[test]
    fn every_command_shows_how_it_is_used() {
        Cli::command().debug_assert();
        for (name, command, _) in commands() {
            let after = command.get_after_help().map(ToString::to_string);
            let after = after.unwrap_or_default();
            assert!(after.contains("Examples:"), "{name}: {after}");
            // What the examples say is really a command line.
            for line in after.lines().filter(|line| line.contains("  darter ")) {
                let line = line.split("   ").next().unwrap().trim();
                let line = line.split(" | ").next().unwrap();
                let line = line.split(" > ").next().unwrap().trim_end_matches('\\');
                let parsed = Cli::try_parse_from(line.split_whitespace());
                assert!(parsed.is_ok(), "{line}: {:?}", parsed.err());
            }
        }
    }

    #[test]
    fn scripts_read_json_wherever_there_is_something_to_read() {
        for (name, command, is_leaf) in commands() {
            if !is_leaf || name == "man" {
                continue;
            }
            let has = command
                .get_arguments()
                .any(|arg| arg.get_id().as_str() == "json");
            assert_ne!(has, PLAIN.contains(&name.as_str()), "{name}");
        }
    }

    #[test]
    fn a_page_for_each_command() {
        let dir = tempfile::tempdir().unwrap();
        let pages = dir.path().join("man1");
        man(Some(&pages)).unwrap();
        let page = std::fs::read_to_string(pages.join("darter-setup.1")).unwrap();
        assert!(page.contains("hosts.toml"), "{page}");
        let page = std::fs::read_to_string(pages.join("darter.1")).unwrap();
        assert!(page.contains("Exit codes"), "{page}");
        for (name, ..) in commands() {
            let page = pages.join(format!("darter-{}.1", name.replace(' ', "-")));
            assert!(page.is_file(), "{name}");
        }
    }

    #[test]
    fn every_shell_completes_every_command() {
        for shell in Shell::value_variants() {
            let mut script = Vec::new();
            clap_complete::generate(*shell, &mut Cli::command(), "darter", &mut script);
            let script = String::from_utf8(script).unwrap();
            for (name, ..) in commands() {
                let last = name.rsplit(' ').next().unwrap();
                assert!(script.contains(last), "{shell}: {name}");
            }
        }
    }

    #[test]
    fn what_excludes_each_other() {
        for line in [
            "darter setup containerd --write --undo",
            "darter setup",
            "darter setup docker --mirror 127.0.0.1:4001",
            "darter setup docker --registry ../x",
            "darter completions nothing",
        ] {
            let error = Cli::try_parse_from(line.split(' ')).unwrap_err();
            assert_eq!(error.exit_code(), 2, "{line}");
        }
    }
}
