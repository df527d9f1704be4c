//! Folders that appear whole or not at all.

use std::{fs, thread};

use super::{
    super::cache::{install, installed, safe_relative},
    write,
};

#[test]
fn two_processes_that_install_the_same_thing_do_no_harm() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("cache/thing");
    thread::scope(|scope| {
        for _ in 0..8 {
            scope.spawn(|| {
                install(&target, "test", "1", |folder| {
                    write(&folder.join("sub/file"), "content");
                    Ok(())
                })
                .unwrap();
            });
        }
    });
    assert_eq!(
        fs::read_to_string(target.join("sub/file")).unwrap(),
        "content"
    );
    assert_eq!(installed(&target).unwrap().files["sub/file"], 7);
    let left = fs::read_dir(root.path().join("cache")).unwrap().count();
    assert_eq!(left, 1, "a staging folder was left over");
}

#[test]
fn a_damaged_folder_is_replaced() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("thing");
    write(&target.join("file"), "stale");
    assert!(installed(&target).is_none());
    let fill = |folder: &std::path::Path| {
        write(&folder.join("file"), "content");
        Ok(())
    };
    install(&target, "test", "1", fill).unwrap();
    assert_eq!(fs::read_to_string(target.join("file")).unwrap(), "content");
    fs::remove_file(target.join("file")).unwrap();
    assert!(installed(&target).is_none());
    install(&target, "test", "1", fill).unwrap();
    assert!(installed(&target).is_some());
}

#[test]
fn a_failed_fill_leaves_nothing() {
    let root = tempfile::tempdir().unwrap();
    let target = root.path().join("cache/thing");
    let failure = install(&target, "test", "1", |folder| {
        write(&folder.join("file"), "content");
        Err(super::super::error::SourceError::new("no"))
    });
    assert!(failure.is_err());
    assert_eq!(fs::read_dir(root.path().join("cache")).unwrap().count(), 0);
}

#[test]
fn paths_that_leave_the_folder_are_not_safe() {
    for name in [
        "", "/a", "..", "a/../b", "a//b", "a/./b", "./a", "a\\b", "C:a", "a/", "a\0b",
    ] {
        assert!(safe_relative(name).is_none(), "{name}");
    }
    for name in ["a", "a/b.json", "1_Pooling/config.json", "..a", "a..b/c"] {
        assert!(safe_relative(name).is_some(), "{name}");
    }
}

#[cfg(unix)]
#[test]
fn what_a_killed_start_left_is_swept_away_after_a_day() {
    let root = tempfile::tempdir().unwrap();
    let (stale, fresh) = (
        root.path().join(".incoming-a"),
        root.path().join(".incoming-b"),
    );
    write(&stale.join("content/file"), "half");
    write(&fresh.join("content/file"), "half");
    let two_days_ago = std::time::SystemTime::now() - std::time::Duration::from_secs(2 * 86_400);
    fs::File::open(&stale)
        .unwrap()
        .set_modified(two_days_ago)
        .unwrap();
    install(&root.path().join("thing"), "test", "1", |folder| {
        write(&folder.join("file"), "content");
        Ok(())
    })
    .unwrap();
    assert!(!stale.exists());
    assert!(fresh.exists());
}
