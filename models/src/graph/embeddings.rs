//! What token ids become before the first layer: rows of the word embeddings and what is added to
//! them.

use std::ops::Range;

use super::blocks::{Blocks, Part, TOKENS};
use super::proto::location;
use super::{DATA_LOCATION_EXTERNAL, ElementType, Graph, Value, onnx};
use crate::architectures::Positions;
use crate::checkpoint::weights::Tensor;
use crate::error::Result;

impl Graph<'_> {
    /// Rows of a weight, widened after they are looked up: the table stays in its file as it is.
    /// `[rows, width]`, `[tokens]` → `[tokens, width]`
    fn gather_stored(&mut self, table: &Value, ids: &Value) -> Result<Value> {
        let tensor = self.tensors.iter().find(|(name, _)| *name == table.name);
        let tensor = tensor.map(|(_, tensor)| tensor.clone());
        let Some((element_type, tensor)) = tensor.and_then(|it| Some((it.narrow()?, it))) else {
            return self.gather(table, ids);
        };
        let stored = Value {
            name: format!("{}.stored", table.name),
            element_type,
            shape: table.shape.clone(),
        };
        self.proto.initializer.push(onnx::TensorProto {
            dims: tensor.shape().iter().map(|&length| length as i64).collect(),
            data_type: element_type as i32,
            name: stored.name.clone(),
            external_data: location(&tensor, self.weights, {
                (Some(tensor.stored_range()), tensor.byte_len())
            }),
            data_location: DATA_LOCATION_EXTERNAL,
            ..Default::default()
        });
        self.tables.push((stored.name.clone(), tensor));
        let rows = self.gather(&stored, ids)?;
        Ok(self.cast(&rows, ElementType::F32))
    }
}

impl Tensor {
    /// Its type where that is a narrow one that is looked up as it lies in the file.
    fn narrow(&self) -> Option<ElementType> {
        let element_type = match &*self.dtype() {
            "float16" => ElementType::F16,
            "bfloat16" => ElementType::Bf16,
            _ => return None,
        };
        let is_aligned = self.stored_range().start.is_multiple_of(2);
        is_aligned.then_some(element_type)
    }
}

impl Blocks<'_> {
    /// `[tokens, hidden]`
    pub(super) fn embeddings(&mut self) -> Result<Value> {
        let (layout, sizes) = (self.layout, self.sizes);
        let ids = self.inputs.input_ids.clone();
        let words = self.word_embeddings()?;
        let name = format!("{}{}", self.prefix, layout.word_embeddings);
        let mut sum = match self.cache {
            // A decoder's table is most of what it keeps, and only rows of it are wanted.
            Some(_) => self.graph.gather_stored(&words, &ids)?,
            None => self.rows_of_table(&name, &words, &ids)?,
        };
        if let Some(scale) = sizes.embedding_scale {
            sum = self.graph.scale(&sum, scale);
        }
        if let Positions::Absolute { .. } = self.architecture.positions {
            let ids = self.inputs.position_ids.clone();
            let positions = self.lookup(layout.position_embeddings, sizes.positions, &ids)?;
            sum = self.graph.add(&sum, &positions)?;
        }
        if let Some(types) = sizes.token_types {
            let ids = self
                .graph
                .input("token_type_ids", ElementType::I64, &[TOKENS]);
            let types = self.lookup(layout.token_type_embeddings, types, &ids)?;
            sum = self.graph.add(&sum, &types)?;
        }
        match layout.embeddings_norm {
            Some(name) => self.norm("", name, &sum),
            None => Ok(sum),
        }
    }

    /// `[vocabulary, hidden]`, without the rows that only fill a table up.
    pub(super) fn word_embeddings(&mut self) -> Result<Value> {
        self.word_embedding_rows(0..self.sizes.vocabulary)
    }

    /// Some rows of the same. `[rows, hidden]`
    pub(super) fn word_embedding_rows(&mut self, rows: Range<usize>) -> Result<Value> {
        let sizes = self.sizes;
        let name = format!("{}{}", self.prefix, self.layout.word_embeddings);
        let filled = [sizes.stored_vocabulary, sizes.hidden];
        let mut rows = Part {
            first: rows.start,
            end: rows.end,
            all: sizes.vocabulary,
        };
        if self.graph.weight_shape(&name)? == filled {
            rows.all = sizes.stored_vocabulary;
        }
        self.rows(&name, &[rows.all, sizes.hidden], rows)
    }

    /// `[tokens]` → `[tokens, hidden]`
    fn lookup(&mut self, name: &str, rows: usize, ids: &Value) -> Result<Value> {
        let name = format!("{}{name}", self.prefix);
        let table = self.graph.weight(&name, &[rows, self.sizes.hidden])?;
        self.rows_of_table(&name, &table, ids)
    }

    /// `[rows, hidden]`, `[tokens]` → `[tokens, hidden]`
    fn rows_of_table(&mut self, name: &str, table: &Value, ids: &Value) -> Result<Value> {
        let found = self.graph.gather(table, ids)?;
        let Some(mask) = self.adapters.clone() else {
            return Ok(found);
        };
        // Of a table the first factor has the rows, of a linear layer the second.
        let [first, second] = self.factors(name)?;
        let stored = self.graph.weight_shape(name)?;
        let rows = stored.first().copied().unwrap_or_default();
        let shape = [mask.adapters, rows, mask.rank];
        let first = self.graph.weight_stacked(&first, shape)?;
        let shape = [mask.adapters, mask.rank, self.sizes.hidden];
        let second = self.graph.weight_stacked(&second, shape)?;
        let added = self.graph.adapted_rows([&first, &second], ids, &mask)?;
        self.graph.add(&found, &added)
    }
}
