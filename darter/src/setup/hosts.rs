//! hosts.toml: where containerd goes for one registry, the mirror first.
//!
//! containerd tries the hosts in the order of the file, and passes a file over in silence
//! that it can't read. <https://github.com/containerd/containerd/blob/main/docs/hosts.md>

use anyhow::{Context as _, Result, ensure};
use toml_edit::{Array, DocumentMut, Item, Table, value};

use super::{
    plan::{Change, Standing},
    target::{Mirror, Registry},
};

/// What a mirror can do: pushes go to the registry.
const CAPABILITIES: [&str; 2] = ["pull", "resolve"];

/// The file of `registry`, with the mirror as its first host; none where what holds for all
/// registries says so already.
pub(super) fn change(
    standing: &Standing<'_>,
    dirs: &[&str],
    mirror: &Mirror,
    registry: &Registry,
) -> Result<Option<Change>> {
    let folder = folder(standing, dirs, registry);
    let path = format!("{folder}/hosts.toml");
    let mut before = standing.before(&path)?;
    if before.is_none() && !standing.root.is_dir(&folder) {
        for dir in for_all(dirs, registry) {
            let now = standing.root.read(&dir)?.unwrap_or_default();
            if is_first(&now.parse().unwrap_or_default(), mirror) {
                return Ok(None);
            }
            before = standing.before(&dir)?;
            if before.is_some() {
                break;
            }
        }
    }
    let before = match before {
        Some(text) => text,
        None => begin(standing, &folder, registry)?,
    };
    let after = with_mirror(&before, mirror).with_context(|| standing.root.shown(&path))?;
    Ok(Some(Change::new(path, after, None)))
}

/// The files that hold for registries without a folder of their own.
fn for_all(dirs: &[&str], registry: &Registry) -> Vec<String> {
    let named = |dir: &&str| format!("{dir}/{}/hosts.toml", Registry::ALL);
    match registry.name.as_str() {
        Registry::ALL => Vec::new(),
        _ => dirs.iter().map(named).collect(),
    }
}

/// The registry's folder that containerd finds first, or the one it would.
fn folder(standing: &Standing<'_>, dirs: &[&str], registry: &Registry) -> String {
    let name = &registry.name;
    let mut names = vec![name.clone()];
    if let Some((host, port)) = name.split_once(':') {
        names.insert(0, format!("{host}_{port}_"));
    }
    let all = dirs.iter().flat_map(|dir| {
        let names = names.iter();
        names.map(move |name| format!("{dir}/{name}"))
    });
    let mut there = all.filter(|folder| standing.root.is_dir(folder));
    let first = dirs.first().copied().unwrap_or("/etc/containerd/certs.d");
    there.next().unwrap_or_else(|| format!("{first}/{name}"))
}

/// A file for a folder that has none. Certificates that lie in it go on being used.
fn begin(standing: &Standing<'_>, folder: &str, registry: &Registry) -> Result<String> {
    let mut text = "# Written by `darter setup containerd`; --undo takes it away.\n".to_owned();
    if registry.name != Registry::ALL {
        text += &format!("server = \"{}\"\n", registry.server());
    }
    Ok(text + &certificates(standing, folder)?)
}

/// The folder's certificates and keys, which containerd reads by itself only where there is
/// no hosts.toml.
fn certificates(standing: &Standing<'_>, folder: &str) -> Result<String> {
    let names = standing.root.list(folder)?;
    let authorities: Array = names.iter().filter(|name| name.ends_with(".crt")).collect();
    let mut clients = Array::new();
    for name in names.iter().filter_map(|name| name.strip_suffix(".cert")) {
        let key = format!("{name}.key");
        if names.contains(&key) {
            clients.push(Array::from_iter([format!("{name}.cert"), key]));
        }
    }
    let mut document = DocumentMut::new();
    for (key, list) in [("ca", authorities), ("client", clients)] {
        if !list.is_empty() {
            document.insert(key, value(list));
        }
    }
    Ok(document.to_string())
}

/// The text with the mirror as the first host.
fn with_mirror(text: &str, mirror: &Mirror) -> Result<String> {
    let mut document: DocumentMut = text.parse().context("it is no TOML: mend it first")?;
    if is_first(&document, mirror) {
        return Ok(text.to_owned());
    }
    let hosts = document.entry("host").or_insert_with(implicit);
    let hosts = hosts
        .as_table_mut()
        .context("`host` is no table with a section for each host: mend it first")?;
    let ours = mirror.to_string();
    let old: Vec<String> = hosts
        .iter()
        .map(|(url, _)| url.to_owned())
        .filter(|url| url.trim_end_matches('/') == ours)
        .collect();
    for url in old {
        hosts.remove(&url);
    }
    let mut table = Table::new();
    table.insert("capabilities", value(Array::from_iter(CAPABILITIES)));
    // Before every section that was read, which begin at 0.
    table.set_position(Some(-1));
    hosts.insert(&ours, Item::Table(table));
    let after = document.to_string();
    ensure!(
        is_first(&after.parse()?, mirror),
        "{ours} can't be put before its other hosts: do it by hand"
    );
    Ok(after)
}

fn implicit() -> Item {
    let mut table = Table::new();
    table.set_implicit(true);
    Item::Table(table)
}

fn is_first(document: &DocumentMut, mirror: &Mirror) -> bool {
    let hosts = document.get("host").and_then(Item::as_table_like);
    let Some((url, host)) = hosts.and_then(|hosts| hosts.iter().next()) else {
        return false;
    };
    let said = host
        .get("capabilities")
        .and_then(Item::as_array)
        .into_iter()
        .flatten();
    let mut said: Vec<&str> = said.filter_map(|word| word.as_str()).collect();
    said.sort_unstable();
    url.trim_end_matches('/') == mirror.to_string() && said == CAPABILITIES
}

#[cfg(test)]
mod tests {
    use super::*;

    fn mirror() -> Mirror {
        "http://127.0.0.1:4001".parse().unwrap()
    }

    const OURS: &str = "[host.\"http://127.0.0.1:4001\"]\ncapabilities = [\"pull\", \"resolve\"]\n";

    #[test]
    fn the_mirror_comes_first_and_the_rest_stays() {
        let other = "[host.\"https://other\"]\n  # theirs\n  ca = 'x.crt'\n  [host.\"https://other\".header]\n    a = 'b'\n";
        let server = "server = 'https://registry'\n\n";
        let after = with_mirror(&format!("{server}{other}"), &mirror()).unwrap();
        assert_eq!(after, format!("{server}{OURS}\n{other}"));
        assert_eq!(with_mirror(&after, &mirror()).unwrap(), after);
    }

    #[test]
    fn a_mirror_that_is_not_the_first_is_moved_and_one_that_pushes_is_not() {
        let late = format!("[host.\"https://other\"]\n\n{OURS}");
        let after = with_mirror(&late, &mirror()).unwrap();
        assert!(after.find("4001") < after.find("https://other"), "{after}");
        assert_eq!(after.matches("4001").count(), 1, "{after}");
        let pushes = "[host.\"http://127.0.0.1:4001/\"]\n";
        let after = with_mirror(pushes, &mirror()).unwrap();
        assert_eq!(after.trim_start(), OURS);
    }

    #[test]
    fn what_has_no_sections_is_left_alone() {
        for text in ["host = 1", "[host", "host = { 'https://x' = {} }"] {
            assert!(with_mirror(text, &mirror()).is_err(), "{text}");
        }
    }
}
