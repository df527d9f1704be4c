//! Who gets a GPU, who is refused, and what is told to those who get none.

use super::*;
use crate::config::{self, Environment, Inputs, Purpose};

fn gpu(ordinal: usize) -> Gpu {
    Gpu {
        ordinal,
        name: "NVIDIA H200".into(),
        memory_bytes: 150_000_000_000,
        compute_capability: (9, 0),
    }
}

fn two() -> Result<Vec<Gpu>, NoGpu> {
    Ok(vec![gpu(0), gpu(1)])
}

fn no_driver() -> Result<Vec<Gpu>, NoGpu> {
    Err(NoGpu {
        why: "there is no NVIDIA driver".into(),
        hint: "install it".into(),
    })
}

fn nobody_asked() -> Result<Vec<Gpu>, NoGpu> {
    panic!("the driver was asked although nobody wants a GPU")
}

fn config(text: &str) -> Config {
    let folder = tempfile::tempdir().expect("a temporary directory");
    let file = folder.path().join("retort.toml");
    std::fs::write(&file, text).expect("a written file");
    let inputs = Inputs {
        purpose: Purpose::Local,
        flags: Vec::new(),
        file: Some(file),
        environment: std::iter::empty::<(&str, &str)>().collect::<Environment>(),
        directory: folder.path().into(),
    };
    let loaded = config::load(&inputs).unwrap_or_else(|error| panic!("{error}"));
    loaded.config
}

fn device(choice: &str) -> Config {
    config(&format!("[runtime]\ndevice = \"{choice}\""))
}

#[test]
fn the_cpu_asks_no_driver() {
    assert_eq!(
        plan(&device("cpu"), &nobody_asked),
        Ok(Plan::Cpu { why: None })
    );
}

#[test]
fn auto_takes_what_is_there_and_says_why_not() {
    let why = Some("there is no NVIDIA driver".to_owned());
    assert_eq!(plan(&device("auto"), &no_driver), Ok(Plan::Cpu { why }));
    let gpus = vec![gpu(0), gpu(1)];
    let Ok(Plan::Gpu(wanted)) = plan(&device("auto"), &two) else {
        panic!("a GPU");
    };
    assert_eq!((&wanted.gpus, &wanted.by), (&gpus, &None));
    assert_eq!(wanted.fetch(), Fetch::Nothing);
}

#[test]
fn who_asked_for_a_gpu_gets_one_or_a_reason_and_a_way_out() {
    let Ok(Plan::Gpu(wanted)) = plan(&device("cuda"), &two) else {
        panic!("a GPU");
    };
    assert_eq!(wanted.fetch(), Fetch::Missing);
    let error = plan(&device("cuda:1"), &no_driver).unwrap_err();
    assert_eq!(
        error.message,
        "`device` = `cuda:1` asks for a GPU, and there is no NVIDIA driver"
    );
    assert_eq!(
        error.hint.as_deref(),
        Some("install it; or run on the CPU with `--device cpu`")
    );
    let error = plan(&device("cuda:2"), &two).unwrap_err();
    assert!(error.message.contains("GPU `2`") && error.message.contains("H200"));
}

#[test]
fn a_single_model_may_insist() {
    let text = "[runtime]\ndevice = \"cpu\"\n[[model]]\nid = \"a/b\"\ndevice = \"cuda\"";
    let error = plan(&config(text), &no_driver).unwrap_err();
    assert!(error.message.starts_with("`device` = `cuda` of model `b`"));
    let Ok(Plan::Gpu(wanted)) = plan(&config(text), &two) else {
        panic!("a GPU");
    };
    assert_eq!(wanted.fetch(), Fetch::Missing);
}

#[test]
fn a_model_goes_where_it_asks_to() {
    let devices = |choice: &str, gpus| Devices {
        gpus,
        ..Devices::of(&device(choice))
    };
    let read = |choice: &str| choice.parse::<DeviceChoice>().expect("a device");
    let both = || vec![gpu(0), gpu(1)];
    let cuda = devices("cuda", both());
    let place = |devices: &Devices, choice: Option<&str>| devices.place(choice.map(read).as_ref());
    assert_eq!(place(&cuda, None), Ok(Placement::Gpus(vec![0])));
    assert_eq!(place(&cuda, Some("cpu")), Ok(Placement::Cpu));
    assert_eq!(
        place(&cuda, Some("cuda:all")),
        Ok(Placement::Gpus(vec![0, 1]))
    );
    assert_eq!(place(&cuda, Some("cuda:1")), Ok(Placement::Gpus(vec![1])));
    assert!(place(&cuda, Some("cuda:2")).is_err());
    let auto = devices("auto", both());
    assert_eq!(place(&auto, None), Ok(Placement::Gpus(vec![0])));
    let three = DeviceChoice::Cuda(Gpus::Count(3));
    assert!(auto.place(Some(&three)).is_err());

    let none = Devices {
        why_cpu: Some("there is no NVIDIA driver".into()),
        ..devices("auto", Vec::new())
    };
    assert_eq!(place(&none, None), Ok(Placement::Cpu));
    let error = place(&none, Some("cuda")).unwrap_err();
    assert!(
        error.message.ends_with("there is no NVIDIA driver"),
        "{error}"
    );
    let cpu = devices("cpu", Vec::new());
    let error = place(&cpu, Some("cuda")).unwrap_err();
    assert!(error.message.contains("`--device cpu`"), "{error}");
}
