//! Where ONNX Runtime put the nodes of a graph. It moves a node that a GPU's provider has no kernel
//! for to the processor without a word, and a model that was asked for on a GPU crawls.

use std::collections::BTreeMap;
use std::ffi::{CStr, c_char};
use std::ptr;
use std::slice;

use ort::AsPointer;
use ort::session::Session;
use ort::session::builder::SessionBuilder;
use ort::sys::{OrtEpAssignedNode, OrtEpAssignedSubgraph, OrtStatusPtr};

use crate::error::{Error, Result};

/// Operators that compute shapes and places. ONNX Runtime keeps them on the processor on purpose,
/// because their results are wanted there.
const LIGHT: [&str; 29] = [
    "Add",
    "And",
    "Cast",
    "Concat",
    "Constant",
    "ConstantOfShape",
    "Div",
    "Equal",
    "Expand",
    "Flatten",
    "Gather",
    "Greater",
    "Identity",
    "Less",
    "Max",
    "Min",
    "Mul",
    "Not",
    "Range",
    "ReduceProd",
    "Reshape",
    "Shape",
    "Size",
    "Slice",
    "Split",
    "Squeeze",
    "Sub",
    "Unsqueeze",
    "Where",
];

/// A node, after all optimisations of the graph.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PlacedNode {
    pub(super) operator: String,
    pub(super) provider: String,
}

/// Has a session remember where its nodes are.
pub(super) fn recorded(builder: SessionBuilder) -> Result<SessionBuilder> {
    Ok(builder.with_config_entry("session.record_ep_graph_assignment_info", "1")?)
}

/// Where the nodes of a session are that was made to remember.
///
/// # Errors
/// `Error::Runtime` when it was not.
pub(super) fn nodes(session: &Session) -> Result<Vec<PlacedNode>> {
    let mut nodes = Vec::new();
    let api = ort::api();
    // SAFETY: the session is alive. The lists and names belong to it and are copied at once.
    unsafe {
        let subgraphs: &[*const OrtEpAssignedSubgraph] = list(|first, count| {
            (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), first, count)
        })?;
        for &subgraph in subgraphs {
            let provider = text(|name| (api.EpAssignedSubgraph_GetEpName)(subgraph, name))?;
            let assigned: &[*const OrtEpAssignedNode] =
                list(|first, count| (api.EpAssignedSubgraph_GetNodes)(subgraph, first, count))?;
            for &node in assigned {
                nodes.push(PlacedNode {
                    operator: text(|name| (api.EpAssignedNode_GetOperatorType)(node, name))?,
                    provider: provider.clone(),
                });
            }
        }
    }
    Ok(nodes)
}

/// Refuses a session that does its heavy work anywhere but on `provider`.
///
/// # Errors
/// `Error::Unsupported` names the operators that are elsewhere.
pub(super) fn check(nodes: &[PlacedNode], provider: &str) -> Result<()> {
    let mut strays: BTreeMap<&str, usize> = BTreeMap::new();
    for node in nodes {
        if node.provider != provider && !LIGHT.contains(&&*node.operator) {
            *strays.entry(&node.operator).or_default() += 1;
        }
    }
    if strays.is_empty() && nodes.iter().any(|node| node.provider == provider) {
        return Ok(());
    }
    let strays: Vec<String> = strays
        .iter()
        .map(|(operator, count)| format!("{count} `{operator}`"))
        .collect();
    let what = match strays.is_empty() {
        true => "none of its nodes".to_owned(),
        false => format!("all but {}", strays.join(", ")),
    };
    Err(Error::Unsupported(format!(
        "of this graph `{provider}` would run {what}, and the rest would be left to the \
         processor; set the device of this model to `cpu`"
    )))
}

/// A list that ONNX Runtime owns.
///
/// # Safety
/// `get` must write the address and the length of a list that lives as long as `'a`.
unsafe fn list<'a, T>(
    get: impl FnOnce(*mut *const T, *mut usize) -> OrtStatusPtr,
) -> Result<&'a [T]> {
    let (mut first, mut count) = (ptr::null(), 0);
    let status = get(&mut first, &mut count);
    // SAFETY: the status comes from the call above and is consumed once.
    unsafe { ort::Error::result_from_status(status) }?;
    if first.is_null() || count == 0 {
        return Ok(&[]);
    }
    // SAFETY: as the caller promises.
    Ok(unsafe { slice::from_raw_parts(first, count) })
}

/// A text that ONNX Runtime owns, copied.
///
/// # Safety
/// `get` must write the address of a text that ends with zero.
unsafe fn text(get: impl FnOnce(*mut *const c_char) -> OrtStatusPtr) -> Result<String> {
    let mut found = ptr::null();
    let status = get(&mut found);
    // SAFETY: the status comes from the call above and is consumed once.
    unsafe { ort::Error::result_from_status(status) }?;
    if found.is_null() {
        return Ok(String::new());
    }
    // SAFETY: as the caller promises.
    let text = unsafe { CStr::from_ptr(found) };
    Ok(text.to_string_lossy().into_owned())
}

#[cfg(test)]
mod tests;
