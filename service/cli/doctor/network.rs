//! The port, the sources, and what stands between. Asks nobody when the network is forbidden.

use std::io::ErrorKind;
use std::net::{SocketAddr, TcpListener};

use serde::Deserialize;

use super::Finding;
use crate::cli::{ps, report::base_url};
use crate::config::{Config, Environment};
use crate::provision::{self, Network, SourceProbe};

/// Everything that has an address.
pub fn examine(config: &Config, environment: &Environment) -> Vec<Finding> {
    let mut findings = vec![port(config.server.address, &config.provision.network)];
    match &config.provision.network {
        Network::Forbidden { by } => findings.push(Finding::good(
            "sources",
            format!("not asked: {by} forbids it; only what is on this machine is used"),
        )),
        Network::Allowed => findings.extend(sources(&provision::probe_sources(&config.provision))),
    }
    findings.push(token(config));
    findings.extend(proxies(environment));
    findings
}

fn port(address: SocketAddr, network: &Network) -> Finding {
    const CHECK: &str = "port";
    let Err(error) = TcpListener::bind(address) else {
        return Finding::good(CHECK, format!("{address} is free"));
    };
    if error.kind() != ErrorKind::AddrInUse {
        let remedy = "choose an address of this machine with `--host`, or a port above 1023";
        return Finding::failure(CHECK, format!("{address} cannot be used: {error}"), remedy);
    }
    let holder = match network {
        Network::Allowed => retort_version(&base_url(address)),
        Network::Forbidden { .. } => None,
    };
    match holder {
        Some(version) => Finding::warning(
            CHECK,
            format!("a Retort {version} listens on {address} already"),
            "ask it with `retort ps`, or start another with `--port`",
        ),
        None => Finding::failure(
            CHECK,
            format!("{address} is taken"),
            "stop what listens there, or choose another port with `--port`",
        ),
    }
}

/// The version of the Retort that answers there, if it is one.
fn retort_version(url: &str) -> Option<String> {
    #[derive(Deserialize)]
    struct Version {
        version: String,
        // Only a Retort tells this beside its own version.
        #[serde(rename = "onnxruntime")]
        _onnxruntime: String,
    }
    let mut response = ps::client(ps::PATIENCE)
        .get(format!("{url}/version"))
        .call()
        .ok()?;
    response
        .body_mut()
        .read_json::<Version>()
        .ok()
        .map(|answer| answer.version)
}

/// A source that does not answer is a pity while another does, and fatal to a first start when
/// none does.
fn sources(probes: &[SourceProbe]) -> Vec<Finding> {
    let none_answers = probes.iter().all(|probe| probe.result.is_err());
    let mut findings: Vec<Finding> = probes.iter().map(source).collect();
    if none_answers {
        findings.push(Finding::warning(
            "sources",
            "none answers: only what is on this machine can be used",
            "check the network and the proxy, or say `--offline` to stop trying",
        ));
    }
    findings
}

fn source(probe: &SourceProbe) -> Finding {
    let check = probe.source.to_string();
    match &probe.result {
        Ok(took) => Finding::good(
            &check,
            format!("{} answers in {} ms", probe.target, took.as_millis()),
        ),
        Err(reason) => {
            let remedy = match probe.source {
                provision::ModelSource::HuggingFace => {
                    "set HF_ENDPOINT to a mirror, or HTTPS_PROXY, or use another `--source`"
                }
                provision::ModelSource::ModelScope => "set HTTPS_PROXY, or use another `--source`",
                provision::ModelSource::PyPi => "install python3 with pip",
            };
            Finding::warning(&check, format!("{}: {reason}", probe.target), remedy)
        }
    }
}

fn token(config: &Config) -> Finding {
    let hub = &config.provision.hugging_face;
    let in_file = hub.token_file.as_ref().filter(|path| path.is_file());
    let finding = match (&hub.token, in_file) {
        (Some(_), _) => "set".into(),
        (None, Some(path)) => format!("in {}", path.display()),
        (None, None) => "none; needed only for gated models".to_owned(),
    };
    Finding::good("hub token", finding)
}

/// Proxies as the environment names them. Addresses are shown without a user and a password.
fn proxies(environment: &Environment) -> Option<Finding> {
    let is_proxy = |name: &&str| {
        ["HTTPS_PROXY", "HTTP_PROXY", "ALL_PROXY", "NO_PROXY"]
            .contains(&name.to_ascii_uppercase().as_str())
    };
    let shown = |name: &str| {
        let value = environment.get(name).unwrap_or_default();
        let after_user = value.rsplit_once('@').map_or(value, |(_, host)| host);
        format!("{name}={after_user}")
    };
    let set: Vec<String> = environment.names().filter(is_proxy).map(shown).collect();
    (!set.is_empty()).then(|| Finding::good("proxy", set.join(", ")))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::cli::doctor::Status;
    use crate::provision::ModelSource;

    fn probe(source: ModelSource, result: Result<Duration, String>) -> SourceProbe {
        SourceProbe {
            source,
            target: "https://hub.example".into(),
            result,
        }
    }

    #[test]
    fn one_source_that_answers_is_enough() {
        let slow = probe(ModelSource::HuggingFace, Err("timed out".into()));
        let fine = probe(ModelSource::PyPi, Ok(Duration::from_millis(30)));
        let findings = sources(&[slow.clone(), fine]);
        let statuses: Vec<Status> = findings.iter().map(|finding| finding.status).collect();
        assert_eq!(statuses, [Status::Warning, Status::Good]);
        assert_eq!(findings[0].finding, "https://hub.example: timed out");
        assert_eq!(sources(&[slow]).len(), 2);
    }

    #[test]
    fn a_taken_port_fails_and_a_free_one_does_not() {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("an address");
        let forbidden = Network::Forbidden {
            by: "--offline".into(),
        };
        assert_eq!(port(address, &forbidden).status, Status::Failure);
        drop(listener);
        assert_eq!(port(address, &forbidden).status, Status::Good);
    }

    #[test]
    fn a_proxy_is_shown_without_its_password() {
        let set = [
            ("https_proxy", "http://ada:secret@proxy:3128"),
            ("NO_PROXY", "localhost"),
        ];
        let finding = proxies(&set.into_iter().collect())
            .expect("a finding")
            .finding;
        assert_eq!(finding, "NO_PROXY=localhost, https_proxy=proxy:3128");
        assert_eq!(proxies(&Environment::default()), None);
    }
}
