//! What a launch says of GPUs, in Xinference's words and in ours → where the model is to run.

use serde_json::Value;

use crate::{
    api::extract::shorten,
    config::{DeviceChoice, Gpus},
    devices::Devices,
    error::{Error, Result},
};

/// What a body has about it.
pub struct Asked<'a> {
    /// `gpu_idx`: a number, or a list whose length is a multiple of `replicas`.
    pub gpu_idx: Option<&'a Value>,
    /// `n_gpu`: a number for each replica, `auto`, or null.
    pub n_gpu: Option<&'a Value>,
    /// `device`: as in the configuration.
    pub device: Option<&'a str>,
    /// `replica`.
    pub replicas: usize,
}

/// Where the model is to run; `None` leaves it to the server, as `auto` and null do, which
/// Xinference's clients send unless told otherwise.
///
/// # Errors
/// When it is wrong whatever the machine has, and when GPUs are asked for that are not there:
/// whoever asks for one outright would rather know than have a model that is slower than expected,
/// and Xinference refuses as well.
pub fn device(asked: &Asked<'_>, devices: &Devices) -> Result<Option<DeviceChoice>> {
    let Some((field, choice)) = choice(asked)? else {
        return Ok(None);
    };
    match devices.place(Some(&choice)) {
        Ok(_) => Ok(Some(choice)),
        Err(_) if devices.gpus().is_empty() => {
            let why = devices.why_cpu().map(|why| format!(", as {why}"));
            Err(Error::invalid(
                field,
                format!(
                    "`{field}` asks for a GPU, and this server uses none{}: start it with \
                     `--device cuda`; or leave `gpu_idx` and `device` out and send `n_gpu` as \
                     `auto` or null to have the model on the CPU",
                    why.unwrap_or_default()
                ),
            ))
        }
        Err(error) => Err(Error::invalid(field, error.message)),
    }
}

/// The field that says it, and what it says.
fn choice(asked: &Asked<'_>) -> Result<Option<(&'static str, DeviceChoice)>> {
    let on = |field, gpus| Ok(Some((field, DeviceChoice::Cuda(gpus))));
    if let Some(text) = asked.device {
        let device = text.parse().map_err(|rule| {
            let text = shorten(text, 100);
            Error::invalid("device", format!("`device` is `{text}`; it {rule}"))
        })?;
        return Ok(Some(("device", device)));
    }
    let (numbers, count) = (numbers(asked)?, count(asked.n_gpu)?);
    if !numbers.is_empty() {
        return on("gpu_idx", Gpus::These(numbers));
    }
    match count {
        None => Ok(None),
        Some(0) => Ok(Some(("n_gpu", DeviceChoice::Cpu))),
        Some(each) => on("n_gpu", Gpus::Count(each.saturating_mul(asked.replicas))),
    }
}

fn wrong(field: &'static str, value: &Value, wanted: &str) -> Error {
    let value = shorten(&value.to_string(), 100);
    Error::invalid(field, format!("`{field}` is `{value}`; give {wanted}"))
}

fn numbers(asked: &Asked<'_>) -> Result<Vec<usize>> {
    let number = |value: &Value| usize::try_from(value.as_u64()?).ok();
    let (value, numbers): (_, Option<Vec<usize>>) = match asked.gpu_idx {
        None | Some(Value::Null) => return Ok(Vec::new()),
        Some(list @ Value::Array(numbers)) => (list, numbers.iter().map(number).collect()),
        Some(other) => (other, number(other).map(|number| vec![number])),
    };
    let wanted = "a number or a list of numbers of GPUs, none of them twice";
    let numbers = numbers.ok_or_else(|| wrong("gpu_idx", value, wanted))?;
    if (1..numbers.len()).any(|at| numbers[..at].contains(&numbers[at])) {
        return Err(wrong("gpu_idx", value, wanted));
    }
    let (count, replicas) = (numbers.len(), asked.replicas);
    // A single number is that of every replica, as is a list as long as a multiple of them.
    if value.is_array() && (count == 0 || count % replicas != 0) {
        let message = format!(
            "`gpu_idx` names {count} GPUs, which cannot be shared out evenly among `replica` = \
             {replicas}"
        );
        return Err(Error::invalid("gpu_idx", message));
    }
    Ok(numbers)
}

fn count(value: Option<&Value>) -> Result<Option<usize>> {
    let number = match value {
        None | Some(Value::Null) => return Ok(None),
        Some(Value::String(text)) if text == "auto" => return Ok(None),
        Some(Value::Number(number)) => number.as_u64(),
        Some(Value::String(text)) => text.parse().ok(),
        Some(_) => None,
    };
    let number = number.and_then(|number| usize::try_from(number).ok());
    match (number, value) {
        (Some(number), _) => Ok(Some(number)),
        (None, Some(value)) => Err(wrong("n_gpu", value, "a number, `auto` or null")),
        (None, None) => Ok(None),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn read(body: &Value, replicas: usize, gpus: usize) -> Result<Option<DeviceChoice>> {
        let asked = Asked {
            gpu_idx: body.get("gpu_idx"),
            n_gpu: body.get("n_gpu"),
            device: body.get("device").and_then(Value::as_str),
            replicas,
        };
        device(&asked, &Devices::with_gpus(gpus))
    }

    fn these(numbers: &[usize]) -> Option<DeviceChoice> {
        Some(DeviceChoice::Cuda(Gpus::These(numbers.to_vec())))
    }

    #[test]
    fn gpus_that_are_there_are_taken() {
        let check = |body: Value, replicas, expected| {
            let choice = read(&body, replicas, 2).unwrap_or_else(|error| panic!("{error}"));
            assert_eq!(choice, expected, "{body}");
        };
        check(json!({"gpu_idx": 1}), 2, these(&[1]));
        check(json!({"gpu_idx": [0, 1]}), 2, these(&[0, 1]));
        check(json!({"gpu_idx": [1], "n_gpu": 1}), 1, these(&[1]));
        let count = |count| Some(DeviceChoice::Cuda(Gpus::Count(count)));
        check(json!({"n_gpu": "2"}), 1, count(2));
        check(json!({"n_gpu": 1}), 2, count(2));
        check(json!({"n_gpu": 0}), 1, Some(DeviceChoice::Cpu));
        check(json!({"n_gpu": "auto", "gpu_idx": null}), 1, None);
        check(json!({"n_gpu": null}), 1, None);
        check(
            json!({"device": "cpu", "n_gpu": 1}),
            1,
            Some(DeviceChoice::Cpu),
        );
    }

    #[test]
    fn gpus_that_are_not_there_are_refused() {
        for (body, field) in [
            (json!({"gpu_idx": 2}), "gpu_idx"),
            (json!({"n_gpu": 3}), "n_gpu"),
            (json!({"n_gpu": u64::MAX}), "n_gpu"),
            (json!({"device": "cuda:0,7"}), "device"),
            (json!({"gpu_idx": [1, 1]}), "gpu_idx"),
        ] {
            match read(&body, 1, 2) {
                Err(Error::InvalidRequest { param, .. }) => assert_eq!(param, Some(field)),
                other => panic!("{body}: {other:?}"),
            }
        }
    }
}
