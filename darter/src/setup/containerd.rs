//! containerd: `config_path` in config.toml, and a hosts.toml for each registry.
//!
//! Where CRI looks for hosts.toml depends on the version of the file, not on that of the
//! software: containerd 2.x reads version 2 as well. A containerd without a config.toml is
//! given one of version 2, which all of them read.

use anyhow::{Context as _, Result, bail, ensure};
use toml_edit::{DocumentMut, Item, Table, TableLike, value};

use super::{
    hosts,
    plan::{Change, Plan, Standing},
    target::{Mirror, Registry},
};

pub(super) const CONFIG: &str = "/etc/containerd/config.toml";
/// What containerd's own documentation has people use.
const CERTS: &str = "/etc/containerd/certs.d";
/// hosts.toml is read again at every pull, config.toml at the start; containers go on.
const RESTART: &str = "systemctl restart containerd";

pub(super) fn plan(
    standing: &Standing<'_>,
    mirror: &Mirror,
    registries: &[Registry],
) -> Result<Plan> {
    let config = Config::read(standing)?;
    let mut plan = Plan::default();
    let path = config.config_path.as_deref().unwrap_or(CERTS);
    let dirs: Vec<&str> = path.split(':').filter(|dir| !dir.is_empty()).collect();
    for registry in registries {
        plan.changes
            .extend(hosts::change(standing, &dirs, mirror, registry)?);
    }
    if config.has_no_cri {
        plan.notes.push(format!(
            "{CONFIG} disables CRI: Kubernetes and crictl can't use this containerd; nerdctl reads {path} by itself, ctr with --hosts-dir {path}"
        ));
    } else if config.config_path.is_none() {
        let after = with_config_path(config.text.as_deref())
            .with_context(|| standing.root.shown(CONFIG))?;
        plan.changes
            .push(Change::new(CONFIG.to_owned(), after, Some(RESTART)));
    }
    Ok(plan)
}

/// What config.toml and the files that it imports say of registries.
#[derive(Debug, Default)]
struct Config {
    text: Option<String>,
    config_path: Option<String>,
    has_no_cri: bool,
}

impl Config {
    fn read(standing: &Standing<'_>) -> Result<Self> {
        let Some(text) = standing.before(CONFIG)? else {
            return Ok(Self::default());
        };
        let mut config = Self::default();
        let main = parse(standing, CONFIG, &text)?;
        config.add(&main, standing, CONFIG)?;
        for path in imports(standing, &main)? {
            if let Some(text) = standing.before(&path)? {
                config.add(&parse(standing, &path, &text)?, standing, &path)?;
            }
        }
        config.text = Some(text);
        Ok(config)
    }

    /// What one file says; later ones win.
    fn add(&mut self, document: &DocumentMut, standing: &Standing<'_>, path: &str) -> Result<()> {
        let disabled = document.get("disabled_plugins").and_then(Item::as_array);
        let mut disabled = disabled.into_iter().flatten().filter_map(|id| id.as_str());
        self.has_no_cri |= disabled.any(is_cri);
        let Some(registry) = section(document, &registry_section(document)) else {
            return Ok(());
        };
        for old in ["mirrors", "configs"] {
            let entries = registry.get(old).and_then(Item::as_table_like);
            let entries = entries.into_iter().flat_map(|table| table.iter());
            // Credentials may stay; what says where to go may not.
            let mut in_the_way = entries.filter(|(_, entry)| {
                let entry = entry.as_table_like();
                old == "mirrors" || entry.is_some_and(|entry| entry.contains_key("tls"))
            });
            if let Some((name, _)) = in_the_way.next() {
                bail!(
                    "{} has registry.{old} for {name}, and containerd refuses that beside hosts.toml files: move it to {CERTS}/{name}/hosts.toml first (https://github.com/containerd/containerd/blob/main/docs/hosts.md)",
                    standing.root.shown(path)
                );
            }
        }
        let path = registry.get("config_path").and_then(Item::as_str);
        if let Some(path) = path.filter(|path| !path.is_empty()) {
            self.config_path = Some(path.to_owned());
        }
        Ok(())
    }
}

/// Whether this is CRI, as files of version 1 name it, or of versions 2 and 3.
fn is_cri(plugin: &str) -> bool {
    let whole = ["cri", "io.containerd.grpc.v1.cri"];
    whole.contains(&plugin) || plugin.starts_with("io.containerd.cri.v1.")
}

fn parse(standing: &Standing<'_>, path: &str, text: &str) -> Result<DocumentMut> {
    let document = text.parse::<DocumentMut>();
    document.with_context(|| format!("{} is no TOML: mend it first", standing.root.shown(path)))
}

/// Where CRI's registries stand, by the file's version; without one it is 1.
/// <https://github.com/containerd/containerd/blob/main/docs/cri/config.md>
fn registry_section(document: &DocumentMut) -> [&'static str; 3] {
    let version = document.get("version").and_then(Item::as_integer);
    let plugin = match version.unwrap_or(1) {
        ..=1 => "cri",
        2 => "io.containerd.grpc.v1.cri",
        3.. => "io.containerd.cri.v1.images",
    };
    ["plugins", plugin, "registry"]
}

fn section<'a>(document: &'a DocumentMut, path: &[&str]) -> Option<&'a dyn TableLike> {
    let mut table: &dyn TableLike = document.as_table();
    for key in path {
        table = table.get(key)?.as_table_like()?;
    }
    Some(table)
}

/// The files it imports, in order; a `*` stands for any part of a file's name.
fn imports(standing: &Standing<'_>, document: &DocumentMut) -> Result<Vec<String>> {
    let list = document.get("imports").and_then(Item::as_array);
    let mut files = Vec::new();
    for entry in list
        .into_iter()
        .flatten()
        .filter_map(|entry| entry.as_str())
    {
        let absolute = if entry.starts_with('/') {
            entry.to_owned()
        } else {
            format!("/etc/containerd/{entry}")
        };
        let (dir, name) = absolute.rsplit_once('/').unwrap_or(("", &absolute));
        let Some((head, tail)) = name.split_once('*') else {
            files.push(absolute);
            continue;
        };
        let found = standing.root.list(dir)?.into_iter().filter(|found| {
            found.len() >= head.len() + tail.len()
                && found.starts_with(head)
                && found.ends_with(tail)
        });
        files.extend(found.map(|found| format!("{dir}/{found}")));
    }
    Ok(files)
}

fn with_config_path(text: Option<&str>) -> Result<String> {
    let text = text.unwrap_or("version = 2\n");
    let mut document: DocumentMut = text.parse()?;
    let path = registry_section(&document);
    let mut table: &mut dyn TableLike = document.as_table_mut();
    for key in path {
        let mut made = Table::new();
        made.set_implicit(true);
        let item = table.entry(key).or_insert(Item::Table(made));
        table = item
            .as_table_like_mut()
            .with_context(|| format!("`{key}` is no table: mend it first"))?;
    }
    match table.get_mut("config_path") {
        // Its key keeps the place and the indent it has.
        Some(empty) => *empty = value(CERTS),
        None => drop(table.insert("config_path", value(CERTS))),
    }
    let after = document.to_string();
    let again: DocumentMut = after.parse()?;
    let said = section(&again, &path).and_then(|table| table.get("config_path"));
    ensure!(
        said.and_then(Item::as_str) == Some(CERTS),
        "can't be merged: put `config_path = \"{CERTS}\"` into [{}.\"{}\".{}] by hand",
        path[0],
        path[1],
        path[2]
    );
    Ok(after)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn config_path_by_the_files_version() {
        let new = with_config_path(None).unwrap();
        assert_eq!(
            new,
            "version = 2\n\n[plugins.\"io.containerd.grpc.v1.cri\".registry]\nconfig_path = \"/etc/containerd/certs.d\"\n"
        );
        for (text, plugin) in [
            ("", "plugins.cri.registry"),
            ("version = 2\n", "plugins.\"io.containerd.grpc.v1.cri\""),
            ("version = 3\n", "plugins.\"io.containerd.cri.v1.images\""),
        ] {
            let after = with_config_path(Some(text)).unwrap();
            assert!(after.contains(plugin), "{after}");
        }
    }

    #[test]
    fn all_else_keeps_its_place() {
        let before = "version = 2\n# why\nroot = '/x' # here\n\n[plugins]\n  [plugins.\"io.containerd.grpc.v1.cri\"]\n    sandbox_image = 'pause'\n    [plugins.\"io.containerd.grpc.v1.cri\".registry]\n      config_path = \"\"\n  [plugins.\"io.containerd.internal.v1.opt\"]\n    path = \"/opt\"\n";
        let after = with_config_path(Some(before)).unwrap();
        let wanted = before.replace(
            "config_path = \"\"",
            "config_path = \"/etc/containerd/certs.d\"",
        );
        assert_eq!(after, wanted);
        let inline = "version = 2\nplugins = { 'io.containerd.grpc.v1.cri' = { registry = {} } }\n";
        let after = with_config_path(Some(inline)).unwrap();
        assert!(after.contains("registry = { config_path"), "{after}");
    }
}
