//! `darter ca interception`: the CA under which listed registries are intercepted, which a
//! client of the HTTP proxy has to trust.
//!
//! The proxy makes it, or the operator gives one; here it is only looked at, and put into or
//! taken out of the system's trust store.

use std::{path::PathBuf, process::ExitCode, time::SystemTime};

use anyhow::{Context as _, Result, ensure};
use clap::{Args, Subcommand};
use darter_proxy::intercept::{self, CaFacts};
use serde_json::json;

use super::trust::TrustStore;
use crate::{
    config::{self, Setting},
    setup::Root,
};

/// The CA under which listed registries are intercepted (HTTPS_PROXY).
#[derive(Debug, Subcommand)]
#[command(after_help = "\
Examples:
  darter ca interception show
  darter ca interception install           for clients with HTTPS_PROXY")]
pub(crate) enum Interception {
    /// Show it: files, fingerprint, end, and whether this system trusts it.
    #[command(after_help = "\
Examples:
  darter ca interception show --data /var/lib/darter
  darter ca interception show --json | jq -r .fingerprint")]
    Show {
        #[command(flatten)]
        place: Place,
        /// Print one JSON object and nothing else.
        #[arg(long)]
        json: bool,
    },
    /// Print its certificate (PEM), for who is to trust it.
    #[command(after_help = "\
Examples:
  darter ca interception export > darter.pem
  darter ca interception export --out /etc/docker/certs.d/ghcr.io/ca.crt")]
    Export {
        #[command(flatten)]
        place: Place,
        /// Write it there instead of printing it.
        #[arg(long, value_name = "FILE")]
        out: Option<PathBuf>,
    },
    /// Put its certificate into the system's trust store.
    #[command(after_help = "\
Examples:
  darter ca interception install
  darter ca interception install --config /etc/darter.toml")]
    Install(Place),
    /// Take its certificate out of the system's trust store.
    #[command(after_help = "\
Examples:
  darter ca interception remove
  darter ca interception remove --all      also what earlier proxies left")]
    Remove {
        #[command(flatten)]
        place: Place,
        /// And those of all other nodes and earlier times.
        #[arg(long)]
        all: bool,
    },
}

#[derive(Debug, Args)]
pub(crate) struct Place {
    /// The proxy's configuration file, where that names a CA or a data directory.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
    /// The proxy's data directory.
    #[arg(long, value_name = "DIR")]
    data: Option<PathBuf>,
    /// The root directory of the system that is to trust it.
    #[arg(long, value_name = "DIR", default_value = "/")]
    root: PathBuf,
}

impl Place {
    fn ca(&self) -> Result<CaFacts> {
        let data = self.data.iter();
        let data =
            data.map(|dir| Setting::text("--data", "proxy.data", &dir.display().to_string()));
        let config = config::load(self.config.as_deref(), std::env::vars(), data.collect());
        let config = config.map_err(|mistakes| config::as_error(&mistakes))?;
        let proxy = &config.proxy;
        intercept::inspect(&proxy.intercept, &proxy.data)?.with_context(|| {
            format!(
                "no CA in {} yet: start the proxy once, or say --data or --config",
                proxy.data.display()
            )
        })
    }

    fn store(&self) -> Result<TrustStore> {
        TrustStore::find(Root::open(&self.root)?)
    }
}

pub(crate) async fn run(command: Interception) -> Result<ExitCode> {
    match command {
        Interception::Show { place, json } => show(&place, json)?,
        Interception::Export { place, out } => {
            let ca = place.ca()?;
            match out {
                None => print!("{}", ca.pem),
                Some(path) => {
                    std::fs::write(&path, &ca.pem)
                        .with_context(|| format!("can't write {}", path.display()))?;
                    println!("wrote {}", path.display());
                }
            }
        }
        Interception::Install(place) => {
            let ca = place.ca()?;
            ensure!(
                !ca.is_key_open,
                "others can read {}, and could pose as any host to this system: chmod 600 it first",
                ca.key.display()
            );
            let store = place.store()?;
            let path = store.add(&ca).await?;
            println!("this system trusts {} now: {path}", ca.subject);
            println!(
                "programs read the store at their start: restart them (systemctl restart docker)"
            );
        }
        Interception::Remove { place, all } => {
            let store = place.store()?;
            let removed = match all {
                true => store.remove_all().await?,
                false => store.remove(&place.ca()?).await?,
            };
            match removed.as_slice() {
                [] => println!("this system did not trust it"),
                paths => println!("removed {}", paths.join(", ")),
            }
        }
    }
    Ok(ExitCode::SUCCESS)
}

fn show(place: &Place, as_json: bool) -> Result<()> {
    let ca = place.ca()?;
    let left = ca.expires.duration_since(SystemTime::now());
    let days = left.map_or(0, |left| left.as_secs() / (24 * 3600));
    // Not every system has a trust store that is known here.
    let trusted = match place.store() {
        Ok(store) => Some(store.has(&ca)?),
        Err(_) => None,
    };
    if as_json {
        let whole = json!({
            "subject": ca.subject,
            "fingerprint": ca.fingerprint,
            "certificate": ca.certificate,
            "key": ca.key,
            "key_is_open": ca.is_key_open,
            "days_left": days,
            "trusted": trusted,
        });
        println!("{}", serde_json::to_string_pretty(&whole)?);
        return Ok(());
    }
    println!("subject      {}", ca.subject);
    println!("fingerprint  {}", ca.fingerprint);
    println!("certificate  {}", ca.certificate.display());
    let open = match ca.is_key_open {
        true => " (OTHERS CAN READ IT: chmod 600)",
        false => "",
    };
    println!("key          {}{open}", ca.key.display());
    println!("ends         in {days} days");
    let trusted = match trusted {
        Some(true) => "yes",
        Some(false) => "no: darter ca interception install",
        None => "not known: this system has no trust store that darter knows",
    };
    println!("trusted      {trusted}");
    Ok(())
}
