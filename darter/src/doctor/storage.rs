//! Whether the data directory can be used, and has room.

use std::path::{Path, PathBuf};

use bytesize::ByteSize;

use super::finding::Finding;
use crate::config::Config;

/// Of a hundred inodes: with fewer free, the next unpacked image may take the last.
const FEW_INODES: u64 = 1;

pub(super) fn check(config: &Config) -> Vec<Finding> {
    let data = &config.proxy.data;
    let place = existing(data);
    vec![writable(data, &place), room(config, &place)]
}

/// The directory, or the nearest one above it that is there.
fn existing(data: &Path) -> PathBuf {
    let mut all = data.ancestors().filter(|dir| !dir.as_os_str().is_empty());
    let found = all.find(|dir| dir.exists());
    found.unwrap_or_else(|| Path::new(".")).to_owned()
}

fn writable(data: &Path, place: &Path) -> Finding {
    let shown = data.display();
    if !place.is_dir() {
        return Finding::wrong(
            "store",
            format!("{} is no directory", place.display()),
            "move it away, or name another directory (--data)",
        );
    }
    // A file without a name: nothing is left, whatever happens.
    match tempfile::tempfile_in(place) {
        Ok(_) if place == data => Finding::ok("store", format!("{shown} can be written to")),
        Ok(_) => Finding::ok("store", format!("{shown} is made at the first start")),
        Err(cause) => Finding::wrong(
            "store",
            format!("{} can't be written to: {cause}", place.display()),
            "give it to the user that the proxy runs as (chown), or name another one (--data)",
        ),
    }
}

fn room(config: &Config, place: &Path) -> Finding {
    let disk = match rustix::fs::statvfs(place) {
        Ok(disk) => disk,
        Err(cause) => {
            let found = format!("{}: {cause}", place.display());
            return Finding::warning("disk", found, "look at the mount");
        }
    };
    let free = ByteSize(disk.f_bavail.saturating_mul(disk.f_frsize));
    let total = ByteSize(disk.f_blocks.saturating_mul(disk.f_frsize));
    let least = config.proxy.store.min_free;
    let capacity = config.proxy.store.capacity;
    let found = format!("{free} of {total} free at {}", place.display());
    if free < least {
        return Finding::wrong(
            "disk",
            format!("{found}, and {least} are to stay free: contents are passed on unstored"),
            "free some, put the data on another disk (--data), or lower proxy.store.min_free",
        );
    }
    if disk.f_files > 0 && disk.f_ffree.saturating_mul(100) < disk.f_files * FEW_INODES {
        let found = format!("{found}, but only {} inodes", disk.f_ffree);
        return Finding::wrong(
            "disk",
            found,
            "remove files: df -i says where they are many",
        );
    }
    if capacity > total {
        return Finding::warning(
            "disk",
            format!("{found}; proxy.store.capacity is {capacity}, more than the disk"),
            "say how much of the disk the proxy may use (proxy.store.capacity)",
        );
    }
    Finding::ok("disk", found)
}
