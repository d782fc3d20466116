//! Which client pulls on which way from which registry: every cell of the table in
//! docs/clients.md is a pull by the real client, and equal by digest.
//!
//! `DARTER_TEST_LONG=1` runs the whole table, every other run its first column;
//! `DARTER_WRITE_CLIENTS=1` with it writes the table down. A run fails where a cell is not
//! what the table says, so that the document stays true.

mod client;
mod site;

use std::{fmt::Write as _, path::Path};

use anyhow::{Context as _, Result, ensure};
use darter_integration::{repetitions, report::can_use};
use futures::{StreamExt as _, TryStreamExt as _, stream};

use client::{Client, Verdict};
use site::{Common, Kind, Site, Way};

/// Pulls at the same time.
const AT_ONCE: usize = 3;
const BEGIN: &str = "<!-- table: written by integration/tests/table -->\n";
const END: &str = "<!-- end of table -->\n";

/// A cell, and what its client's pull came to.
struct Cell {
    client: Client,
    way: Way,
    kind: Kind,
    failed: Option<String>,
}

impl Cell {
    /// What is not as the table says.
    fn surprise(&self) -> Option<String> {
        let expected = self.client.expected(self.way, self.kind);
        let at = format!("{:?} {:?} {:?}", self.client, self.way, self.kind);
        match (&self.failed, expected) {
            (Some(error), Verdict::Pulls) => Some(format!("{at}: {error}")),
            (None, Verdict::Fails(why)) => Some(format!("{at}: pulled, although it {why}")),
            _ => None,
        }
    }
}

async fn fill(root: &Path, common: &Common, site: &Site, at: (Client, Way)) -> Result<Cell> {
    let ((client, way), kind) = (at, site.kind);
    let dir = root.join(format!("{client:?}-{way:?}-{kind:?}"));
    std::fs::create_dir_all(&dir)?;
    let pulled = client.pull(way, site, common, &dir).await;
    let failed = pulled.err().map(|error| format!("{error:#}"));
    println!(
        "{client:?} {way:?} {kind:?}: {}",
        failed.as_deref().unwrap_or("pulled")
    );
    Ok(Cell {
        client,
        way,
        kind,
        failed,
    })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_on_every_way() -> Result<()> {
    if !can_use("every_client_on_every_way", &["docker-registry"], false) {
        return Ok(());
    }
    let dir = tempfile::tempdir()?;
    let root = dir.path();
    let common = Common::new(root).await?;
    let kinds = &Kind::ALL[..repetitions(1, Kind::ALL.len())];
    let clients: Vec<Client> = Client::ALL
        .into_iter()
        .filter(|one| one.is_there())
        .collect();
    let mut sites = Vec::new();
    for kind in kinds {
        sites.push(Site::new(root, &common, *kind).await?);
    }
    let mut cells = Vec::new();
    for client in &clients {
        for (way, site) in Way::ALL
            .iter()
            .flat_map(|way| sites.iter().map(move |site| (way, site)))
        {
            if !matches!(client.expected(*way, site.kind), Verdict::NoSuchWay(_)) {
                cells.push(fill(root, &common, site, (*client, *way)));
            }
        }
    }
    let cells: Vec<Cell> = stream::iter(cells)
        .buffer_unordered(AT_ONCE)
        .try_collect()
        .await?;
    let surprises: Vec<String> = cells.iter().filter_map(Cell::surprise).collect();
    println!("{} pulls", cells.len());
    ensure!(surprises.is_empty(), "{}", surprises.join("\n\n"));

    let whole = kinds.len() == Kind::ALL.len() && clients.len() == Client::ALL.len();
    let path = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/clients.md"));
    if whole && std::env::var_os("DARTER_WRITE_CLIENTS").is_some() {
        let text = std::fs::read_to_string(path)?;
        let (before, rest) = text.split_once(BEGIN).context("the table's place")?;
        let (_, after) = rest.split_once(END).context("the table's end")?;
        std::fs::write(path, format!("{before}{BEGIN}{}{END}{after}", table()?))?;
    }
    Ok(())
}

/// The document says what the runs above are held to.
#[test]
fn the_document_has_this_table() -> Result<()> {
    let text = include_str!("../../../docs/clients.md");
    ensure!(
        text.contains(&format!("{BEGIN}{}{END}", table()?)),
        "docs/clients.md:\n{}",
        table()?
    );
    Ok(())
}

fn table() -> Result<String> {
    let mut text = String::from("| client | way |");
    let kinds = [Kind::Open, Kind::Basic, Kind::Bearer, Kind::PrivateCa];
    for kind in kinds {
        write!(text, " {} |", kind.title())?;
    }
    writeln!(text, "\n|---|---|{}", "---|".repeat(kinds.len()))?;
    for client in Client::ALL {
        for (at, way) in Way::ALL.into_iter().enumerate() {
            let name = if at == 0 { client.title() } else { "" };
            write!(text, "| {name} | {} |", way.title())?;
            for kind in kinds {
                match client.expected(way, kind) {
                    Verdict::Pulls => write!(text, " yes |")?,
                    Verdict::NoSuchWay(why) => write!(text, " – {why} |")?,
                    Verdict::Fails(why) => write!(text, " no: {why} |")?,
                }
            }
            writeln!(text)?;
        }
    }
    Ok(text)
}
