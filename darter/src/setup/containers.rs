//! podman, CRI-O, skopeo, buildah: a drop-in of registries.conf.
//!
//! A `[[registry]]` of a later file replaces one of the same prefix whole, so that ours
//! begins with what the others say. The upstream stands in the mirror's path: these clients
//! send no `ns`. <https://github.com/containers/image/blob/main/docs/containers-registries.conf.d.5.md>

use anyhow::{Context as _, Result, ensure};
use toml_edit::{ArrayOfTables, DocumentMut, Item, Table, value};

use super::{
    plan::{Change, Plan, Standing},
    target::{Mirror, Registry},
};

const MAIN: &str = "/etc/containers/registries.conf";
const DIR: &str = "/etc/containers/registries.conf.d";
/// Files are read in the order of their names.
const NAME: &str = "99-darter.conf";
const HEADER: &str = "# Written by `darter setup podman` (and crio); --undo takes it away.\n";

pub(super) fn plan(
    standing: &Standing<'_>,
    mirror: &Mirror,
    registries: &[Registry],
    then: Option<&'static str>,
) -> Result<Plan> {
    let mut plan = Plan::default();
    if mirror.is_plain() && !mirror.is_on_loopback() {
        plan.notes.push(format!(
            "{mirror} is plain text: who is on the way to it can answer for tags, and read private images"
        ));
    }
    let path = format!("{DIR}/{NAME}");
    // Registries of an earlier `--write` stay.
    let current = standing.root.read(&path)?.unwrap_or_default();
    let mut tables = registries_of(&current).with_context(|| standing.root.shown(&path))?;
    for registry in registries {
        ensure!(
            registry.name != Registry::ALL,
            "registries.conf has no entry for all registries: name them"
        );
        let said = effective(standing, registry)?;
        let ours = tables
            .iter_mut()
            .find(|old| prefix(old) == Some(registry.name.as_str()));
        let by_hand = is_first(&said, mirror, registry);
        let table = with_mirror(said, mirror, registry);
        match ours {
            Some(ours) => *ours = table,
            None if by_hand => {}
            None => tables.push(table),
        }
    }
    if !tables.is_empty() {
        plan.changes.push(Change::new(path, render(tables), then));
    }
    Ok(plan)
}

/// Whether a registry's first mirror is ours.
fn is_first(table: &Table, mirror: &Mirror, registry: &Registry) -> bool {
    let mirrors = table.get("mirror").and_then(Item::as_array_of_tables);
    let first = mirrors.and_then(|mirrors| mirrors.iter().next());
    let location = first.and_then(|first| first.get("location"));
    location.and_then(Item::as_str) == Some(&ours(mirror, registry))
}

fn ours(mirror: &Mirror, registry: &Registry) -> String {
    format!("{}/{}", mirror.location(), registry.name)
}

/// The `[[registry]]` tables of a file.
fn registries_of(text: &str) -> Result<Vec<Table>> {
    let document: DocumentMut = text.parse().context("it is no TOML: mend it first")?;
    let tables = document.get("registry").and_then(Item::as_array_of_tables);
    Ok(tables.into_iter().flatten().cloned().collect())
}

fn prefix(table: &Table) -> Option<&str> {
    let text = |key| table.get(key).and_then(Item::as_str);
    text("prefix").or_else(|| text("location"))
}

/// What the other files say of a registry; of several the last.
fn effective(standing: &Standing<'_>, registry: &Registry) -> Result<Table> {
    let mut files = vec![MAIN.to_owned()];
    for name in standing.root.list(DIR)? {
        if name.ends_with(".conf") && name != NAME {
            files.push(format!("{DIR}/{name}"));
        }
    }
    let mut found = None;
    for file in files {
        let text = standing.before(&file)?.unwrap_or_default();
        let tables = registries_of(&text).with_context(|| standing.root.shown(&file))?;
        let mut named = tables
            .into_iter()
            .filter(|t| prefix(t) == Some(&registry.name));
        if let Some(table) = named.next_back() {
            let comes_after = file.as_str() > format!("{DIR}/{NAME}").as_str();
            ensure!(
                !comes_after,
                "{} is read after {NAME}, and replaces what it says of {}: rename it first",
                standing.root.shown(&file),
                registry.name
            );
            found = Some(table);
        }
    }
    Ok(found.unwrap_or_else(|| fresh(registry)))
}

fn fresh(registry: &Registry) -> Table {
    let mut table = Table::new();
    let location = match &registry.url {
        Some(url) => url.location(),
        None => registry.name.clone(),
    };
    table.insert("location", value(location));
    if registry.url.as_ref().is_some_and(Mirror::is_plain) {
        table.insert("insecure", value(true));
    }
    table
}

/// The registry with the mirror before its other mirrors.
fn with_mirror(old: Table, mirror: &Mirror, registry: &Registry) -> Table {
    let location = ours(mirror, registry);
    let mut ours = Table::new();
    ours.insert("location", value(&location));
    if mirror.is_plain() {
        ours.insert("insecure", value(true));
    }
    let mut mirrors = ArrayOfTables::new();
    mirrors.push(ours);
    let others = old.get("mirror").and_then(Item::as_array_of_tables);
    for other in others.into_iter().flatten() {
        if other.get("location").and_then(Item::as_str) != Some(&location) {
            mirrors.push(plain_copy(other));
        }
    }
    let mut table = Table::new();
    table.insert("prefix", value(&registry.name));
    for (key, item) in old
        .iter()
        .filter(|(key, _)| *key != "prefix" && *key != "mirror")
    {
        table.insert(key, item.clone());
    }
    table.insert("mirror", Item::ArrayOfTables(mirrors));
    table
}

/// Without the place it had in its file.
fn plain_copy(table: &Table) -> Table {
    let mut copy = Table::new();
    for (key, item) in table.iter() {
        copy.insert(key, item.clone());
    }
    copy
}

fn render(tables: Vec<Table>) -> String {
    let mut registries = ArrayOfTables::new();
    for table in tables {
        let mut copy = plain_copy(&table);
        if let Some(Item::ArrayOfTables(mirrors)) = table.get("mirror") {
            let mirrors = mirrors.iter().map(plain_copy);
            copy.insert("mirror", Item::ArrayOfTables(mirrors.collect()));
        }
        registries.push(copy);
    }
    let mut document = DocumentMut::new();
    document.insert("registry", Item::ArrayOfTables(registries));
    format!("{HEADER}\n{document}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_others_say_of_a_registry_goes_on_holding() {
        let old = registries_of("[[registry]]\nlocation = \"docker.io\"\nblocked = false\n[[registry.mirror]]\nlocation = \"other:5000\"\n").unwrap();
        let mirror: Mirror = "http://127.0.0.1:4001".parse().unwrap();
        let hub: Registry = "docker.io".parse().unwrap();
        let table = with_mirror(old[0].clone(), &mirror, &hub);
        let text = render(vec![table.clone()]);
        assert_eq!(
            text,
            format!(
                "{HEADER}\n[[registry]]\nprefix = \"docker.io\"\nlocation = \"docker.io\"\nblocked = false\n\n[[registry.mirror]]\nlocation = \"127.0.0.1:4001/docker.io\"\ninsecure = true\n\n[[registry.mirror]]\nlocation = \"other:5000\"\n"
            )
        );
        let again = registries_of(&text).unwrap();
        assert_eq!(render(again), text);
        let twice = with_mirror(table, &mirror, &hub);
        assert_eq!(render(vec![twice]), text);
    }

    #[test]
    fn a_registry_that_nobody_spoke_of() {
        let mirror: Mirror = "https://mirror.example".parse().unwrap();
        let own: Registry = "reg.example:5000=http://10.0.0.5:5000".parse().unwrap();
        let text = render(vec![with_mirror(fresh(&own), &mirror, &own)]);
        assert_eq!(
            text,
            format!(
                "{HEADER}\n[[registry]]\nprefix = \"reg.example:5000\"\nlocation = \"10.0.0.5:5000\"\ninsecure = true\n\n[[registry.mirror]]\nlocation = \"mirror.example/reg.example:5000\"\n"
            )
        );
    }
}
