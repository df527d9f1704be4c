//! The one integration-test binary: numerics, the service over HTTP, the program itself, the rules
//! of the house. What needs ONNX Runtime or MiniLM fetches them as the service does.

mod bad_clients;
mod checkpoints;
mod evaluation;
mod fleet;
mod generate;
mod heads;
mod http;
mod linear_operators;
mod memory;
mod numerics;
mod official_clients;
mod openapi_conformance;
mod operators;
mod overload;
mod packed_attention;
mod precision;
mod program;
mod rerank;
mod soak;
#[cfg(unix)]
mod supervised;
mod support;
mod tidy;
mod token_operators;
mod verify;
mod xinference;
