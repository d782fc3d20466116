//! Whether the clients of this machine use the mirror.

use std::path::Path;

use super::{Patient, finding::Finding};
use crate::setup::{self, Client, Mirror, Record, Registry, Standing};

const CHECK: &str = "clients";
/// Where daemons lie, in order of likelihood.
const DIRS: [&str; 5] = [
    "/usr/bin",
    "/usr/sbin",
    "/usr/local/bin",
    "/usr/local/sbin",
    "/snap/bin",
];

pub(super) fn check(patient: &Patient) -> Vec<Finding> {
    // As it stands now, whoever wrote it.
    let record = Record::default();
    let standing = Standing::new(&patient.root, &record);
    let installed: Vec<Client> = [
        (Client::Containerd, "containerd"),
        (Client::Docker, "dockerd"),
        (Client::Podman, "podman"),
        (Client::Crio, "crio"),
    ]
    .into_iter()
    .filter(|(_, program)| is_installed(patient, program))
    .map(|(client, _)| client)
    .collect();
    if installed.is_empty() {
        return vec![Finding::skipped(
            CHECK,
            "neither containerd nor Docker, podman or CRI-O is installed",
        )];
    }
    let findings = installed.into_iter();
    let findings = findings.map(|client| one(patient, &standing, client));
    let (used, unused): (Vec<_>, Vec<_>) = findings.partition(Result::is_ok);
    // A machine has clients that nobody pulls with; one that uses the mirror is enough.
    let is_enough = !used.is_empty();
    let used = used.into_iter().filter_map(Result::ok);
    let unused = unused.into_iter().filter_map(Result::err);
    used.map(|found| Finding::ok(CHECK, found))
        .chain(unused.map(|(found, todo)| match is_enough {
            true => Finding::warning(CHECK, found, todo),
            false => Finding::wrong(CHECK, found, todo),
        }))
        .collect()
}

fn is_installed(patient: &Patient, program: &str) -> bool {
    let names = DIRS.iter().map(|dir| format!("{dir}/{program}"));
    names
        .map(|path| patient.root.shown(&path))
        .any(|path| Path::new(&path).exists())
}

/// That a client uses the mirror; or that it does not, and what to do.
fn one(
    patient: &Patient,
    standing: &Standing<'_>,
    client: Client,
) -> Result<String, (String, String)> {
    let name = client.name();
    let unclear = |cause: String| (format!("{name}: {cause}"), "mend that first".to_owned());
    let mirror = Mirror::at(patient.config.proxy.listen);
    let upstreams = patient.config.proxy.upstreams.iter();
    let registries: Vec<Registry> = upstreams
        .filter(|upstream| client.mirrors(&upstream.name))
        .filter_map(Registry::of)
        .collect();
    if registries.is_empty() {
        return Ok(format!(
            "{name}: Docker Hub, its only mirrored registry, is not listed"
        ));
    }
    let plan = setup::plan(standing, client, &mirror, &registries)
        .map_err(|cause| unclear(format!("{cause:#}")))?;
    // Where the registry itself is makes no difference to the mirror.
    let mut by_name = registries.clone();
    by_name.iter_mut().for_each(|registry| registry.url = None);
    let of_names = setup::plan(standing, client, &mirror, &by_name);
    if plan.changes.is_empty() || of_names.is_ok_and(|plan| plan.changes.is_empty()) {
        return Ok(format!("{name} uses the mirror"));
    }
    let files: Vec<&str> = plan.changes.iter().map(|c| c.path.as_str()).collect();
    let flags: String = registries
        .iter()
        .map(|registry| match &registry.url {
            Some(url) => format!(" --registry {}={url}", registry.name),
            None => format!(" --registry {}", registry.name),
        })
        .collect();
    Err((
        format!(
            "{name} does not use the mirror for all registries, by {}",
            files.join(", ")
        ),
        format!("darter setup {name} --mirror {mirror}{flags} --write"),
    ))
}
