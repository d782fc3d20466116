//! `darter passwd`: another password for a manager's administrator, for who has the database.

use std::{path::PathBuf, process::ExitCode};

use anyhow::Result;
use darter_manager::{Options, reset_root};

use crate::rest::read;

pub(crate) async fn run(options: &Options, file: Option<&PathBuf>) -> Result<ExitCode> {
    match reset_root(options, read(file)?).await? {
        Some(password) => {
            println!("the manager's administrator is root, password {password} (said this once)");
        }
        None => println!("the manager's administrator is root, with the password of the file"),
    }
    Ok(ExitCode::SUCCESS)
}
