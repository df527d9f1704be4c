//! The catalogue while serving: models of the user come and go, those of the program stay.

use std::sync::{Arc, PoisonError};

use retort_models::{Catalog, catalog::Entry};

use super::Fleet;
use crate::error::{Error, Result};

impl Fleet {
    /// The models that are known by name, as of now.
    pub fn catalog(&self) -> Arc<Catalog> {
        self.0.catalog()
    }

    /// Whether a model is part of the program, under its name there.
    pub fn is_builtin(&self, name: &str) -> bool {
        // Reading the compiled catalogue is what the tests of the models crate prove.
        Catalog::compiled().is_ok_and(|catalog| catalog.by_name(name).is_some())
    }

    /// Makes a model known by name; with `persist` also after a restart.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] when a name or id of it is taken.
    pub fn register(&self, entry: Entry, persist: bool) -> Result<()> {
        let name = entry.name.clone();
        self.change_catalog(|catalog| catalog.with_entry(entry.clone()))?;
        tracing::info!(model = name, persist, "model registered");
        if persist {
            let mut store = self.0.store();
            let mut kept = store.registrations().to_vec();
            kept.push(entry);
            store.set_registrations(kept);
            drop(store);
            self.0.save();
        }
        Ok(())
    }

    /// Forgets a model of the user; one that is served goes on.
    ///
    /// # Errors
    /// [`Error::InvalidRequest`] when it is part of the program or not known.
    pub fn unregister(&self, name: &str) -> Result<()> {
        if self.is_builtin(name) {
            let message = format!("model `{name}` is part of the program and stays registered");
            return Err(Error::invalid("model_name", message));
        }
        self.change_catalog(|catalog| Ok(catalog.without_entry(name)))?;
        tracing::info!(model = name, "model unregistered");
        let mut store = self.0.store();
        let mut kept = store.registrations().to_vec();
        let before = kept.len();
        kept.retain(|entry| !entry.name.eq_ignore_ascii_case(name));
        let changed = kept.len() != before;
        store.set_registrations(kept);
        drop(store);
        if changed {
            self.0.save();
        }
        Ok(())
    }

    pub(super) fn restore_registrations(&self, entries: Vec<Entry>) {
        for entry in entries {
            let name = entry.name.clone();
            if let Err(error) = self.change_catalog(|catalog| catalog.with_entry(entry)) {
                tracing::warn!(model = name, %error, "a registration does not return");
            }
        }
    }

    fn change_catalog(
        &self,
        change: impl FnOnce(Catalog) -> Result<Catalog, retort_models::CatalogError>,
    ) -> Result<()> {
        let mut catalog = self
            .0
            .catalog
            .write()
            .unwrap_or_else(PoisonError::into_inner);
        let before = catalog.entries().len();
        let next = change(Catalog::clone(&catalog))
            .map_err(|error| Error::invalid("model_name", error.to_string()))?;
        if next.entries().len() == before {
            return Err(Error::invalid("model_name", "Model not found"));
        }
        *catalog = Arc::new(next);
        Ok(())
    }
}
