//! The caches: what they hold, whether they can be written, and what room is left.

use std::path::{Path, PathBuf};

use sysinfo::{DiskRefreshKind, Disks};

use super::Finding;
use crate::cli::table::bytes;
use crate::config::Config;
use crate::provision::{self, CacheEntry, Network};

/// Below this, a common model does not fit.
const FREE_BYTES_MIN: u64 = 3_000_000_000;

/// Every cache, and the room for them.
pub fn examine(config: &Config) -> Vec<Finding> {
    let own = &config.provision.cache_dir;
    let hub = &config.provision.hugging_face.cache_dir;
    let offline = config.provision.network != Network::Allowed;
    let mut findings = vec![
        cache("cache", own, offline),
        cache("hub cache", hub, offline),
    ];
    findings.extend(
        provision::cache_report(&config.provision)
            .iter()
            .map(cached),
    );
    findings.push(room(own));
    findings
}

/// A directory that may yet have to be made counts by the one that it would be made in.
fn cache(check: &str, directory: &Path, offline: bool) -> Finding {
    let shown = directory.display();
    match (writable(directory), offline) {
        (Ok(()), _) => Finding::good(check, shown.to_string()),
        (Err(error), true) => Finding::good(check, format!("{shown} (not writable: {error})")),
        (Err(error), false) => Finding::warning(
            check,
            format!("{shown} cannot be written: {error}"),
            "make it writable, or choose another with `--cache-dir` or HF_HOME",
        ),
    }
}

/// Tries it: permissions, quotas and read-only mounts all show only then.
fn writable(directory: &Path) -> std::io::Result<()> {
    let existing = existing(directory);
    let trial = existing.join(format!(".retort-doctor-{}", std::process::id()));
    std::fs::write(&trial, [])?;
    std::fs::remove_file(trial)
}

fn existing(directory: &Path) -> PathBuf {
    let absolute = std::path::absolute(directory).unwrap_or_else(|_| directory.into());
    absolute
        .ancestors()
        .find(|path| path.is_dir())
        .unwrap_or(Path::new("/"))
        .into()
}

fn cached(entry: &CacheEntry) -> Finding {
    let CacheEntry {
        what, bytes: size, ..
    } = entry;
    Finding::good("cached", format!("{what}, {}", bytes(*size)))
}

fn room(directory: &Path) -> Finding {
    let disks = Disks::new_with_refreshed_list_specifics(DiskRefreshKind::nothing().with_storage());
    let directory = existing(directory);
    let holds = |disk: &&sysinfo::Disk| directory.starts_with(disk.mount_point());
    // The innermost mount holds it.
    let disk = disks
        .list()
        .iter()
        .filter(holds)
        .max_by_key(|d| d.mount_point().as_os_str().len());
    let Some(free) = disk.map(sysinfo::Disk::available_space) else {
        return Finding::good("disk", "the free space is not known");
    };
    let finding = format!("{} free for the cache", bytes(free));
    if free < FREE_BYTES_MIN {
        let remedy = "free some, or put the cache elsewhere with `--cache-dir`";
        Finding::warning("disk", finding, remedy)
    } else {
        Finding::good("disk", finding)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cli::doctor::Status;

    #[test]
    fn a_cache_that_does_not_exist_yet_is_judged_by_where_it_would_be() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let finding = cache("cache", &directory.path().join("a/b"), false);
        assert_eq!(finding.status, Status::Good);
        let left = std::fs::read_dir(directory.path())
            .expect("a directory")
            .count();
        assert_eq!(left, 0, "the trial is cleared away");
    }

    #[test]
    fn a_place_that_cannot_be_written_matters_only_when_something_may_be_fetched() {
        // A directory below a file can be made by nobody, not even by root.
        let below_a_device = Path::new("/proc/version/cache");
        if Path::new("/proc/version").exists() {
            assert_eq!(
                cache("cache", below_a_device, false).status,
                Status::Warning
            );
            assert_eq!(cache("cache", below_a_device, true).status, Status::Good);
        }
    }
}
