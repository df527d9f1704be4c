//! Mounted secrets, GPUs that are chosen elsewhere, and limits that are off unless set.

use super::*;

#[test]
fn secrets_come_from_mounted_files_too() {
    let directory = tempfile::tempdir().expect("a temporary directory");
    let keys = directory.path().join("keys");
    std::fs::write(&keys, "sk-one\nsk-two,sk-three\n").expect("a written file");
    let path = keys.display().to_string();
    let with = |variables: &[(&str, &str)]| {
        let mut inputs = inputs();
        inputs.environment = variables.iter().copied().collect();
        load(&inputs)
    };
    let loaded = with(&[
        ("RETORT_API_KEY_FILE", &path),
        ("RETORT_ADMIN_API_KEY_FILE", &path),
    ]);
    let loaded = loaded.unwrap_or_else(|error| panic!("{error}"));
    let exposed = |keys: &[Secret]| {
        keys.iter()
            .map(|k| k.expose().to_owned())
            .collect::<Vec<_>>()
    };
    let server = &loaded.config.server;
    let expected = ["sk-one", "sk-two", "sk-three"];
    assert_eq!(exposed(&server.api_keys), expected);
    assert_eq!(exposed(&server.admin_api_keys), expected);
    assert_eq!(loaded.warnings, [""; 0]);
    let shown = show(&loaded.layers);
    assert!(
        shown.contains("# RETORT_API_KEY_FILE") && !shown.contains("sk-one"),
        "{shown}"
    );

    let both = error_of(with(&[
        ("RETORT_API_KEY_FILE", &path),
        ("RETORT_API_KEY", "k"),
    ]));
    assert!(
        both.message
            .contains("both `RETORT_API_KEY` and `RETORT_API_KEY_FILE`")
    );
    let missing = error_of(with(&[("RETORT_API_KEY_FILE", "/nonexistent/key")]));
    assert!(missing.message.contains("cannot read `/nonexistent/key`"));
    std::fs::write(&keys, " \n").expect("a written file");
    let empty = error_of(with(&[("RETORT_API_KEY_FILE", &path)]));
    assert!(empty.message.ends_with("is empty"), "{empty}");
}

#[test]
fn limits_of_a_minute_are_off_at_zero() {
    let limits = |file: &str| {
        let loaded = with_file(file, inputs()).unwrap_or_else(|error| panic!("{error}"));
        let limits = loaded.config.limits;
        (limits.requests_per_minute, limits.tokens_per_minute)
    };
    assert_eq!(limits(""), (None, None));
    let both = "[limits]\nrequests_per_minute = 60\ntokens_per_minute = 100000\n";
    assert_eq!(limits(both), (Some(60), Some(100_000)));
    let wrong = error_of(with_file("[limits]\nrequests_per_minute = -1\n", inputs()));
    assert!(wrong.message.contains("must be within 0 to"), "{wrong}");
}
