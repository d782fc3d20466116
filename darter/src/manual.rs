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
    use clap::Parser as _;

    use super::*;

    #[test]
    fn every_command_shows_how_it_is_used() {
        Cli::command().debug_assert();
        let mut command = Cli::command();
        command.build();
        for sub in command.get_subcommands().filter(|sub| !sub.is_hide_set()) {
            let name = sub.get_name();
            if name == "help" {
                continue;
            }
            let after = sub.get_after_help().map(ToString::to_string);
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
    fn a_page_for_each_command() {
        let dir = tempfile::tempdir().unwrap();
        let pages = dir.path().join("man1");
        man(Some(&pages)).unwrap();
        let page = std::fs::read_to_string(pages.join("darter-setup.1")).unwrap();
        assert!(page.contains("hosts.toml"), "{page}");
        assert!(pages.join("darter.1").is_file());
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
