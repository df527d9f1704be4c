//! A snapshot of the environment. Taken once, at start; nothing else in the service reads
//! variables, and tests make their own.

use std::collections::BTreeMap;
use std::path::PathBuf;

/// The environment variables that a run was started with.
#[derive(Clone, Default)]
pub struct Environment(BTreeMap<String, String>);

impl Environment {
    /// The variables of this process; those that are not Unicode are left out.
    pub fn of_process() -> Self {
        let unicode = |(name, value): (std::ffi::OsString, std::ffi::OsString)| {
            Some((name.into_string().ok()?, value.into_string().ok()?))
        };
        Self(std::env::vars_os().filter_map(unicode).collect())
    }

    /// The value of a variable. One that is set to nothing counts as not set, because container
    /// tools pass variables on like that.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .get(name)
            .map(|value| value.trim())
            .filter(|value| !value.is_empty())
    }

    /// Names of all variables that are set, in alphabetical order.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0
            .keys()
            .map(String::as_str)
            .filter(|name| self.get(name).is_some())
    }

    /// The user's home directory.
    pub fn home(&self) -> Option<PathBuf> {
        self.get("HOME")
            .or_else(|| self.get("USERPROFILE"))
            .map(PathBuf::from)
    }

    /// The directory for what a user configures.
    pub fn config_dir(&self) -> Option<PathBuf> {
        let named = self.get("XDG_CONFIG_HOME").or_else(|| self.get("APPDATA"));
        named
            .map(PathBuf::from)
            .or_else(|| Some(self.home()?.join(".config")))
    }
}

impl<N: Into<String>, V: Into<String>> FromIterator<(N, V)> for Environment {
    fn from_iter<I: IntoIterator<Item = (N, V)>>(variables: I) -> Self {
        Self(
            variables
                .into_iter()
                .map(|(name, value)| (name.into(), value.into()))
                .collect(),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_variable_set_to_nothing_is_not_set() {
        let environment = Environment::from_iter([("A", ""), ("B", " "), ("C", " x ")]);
        assert_eq!(environment.get("A"), None);
        assert_eq!(environment.get("C"), Some("x"));
        assert_eq!(environment.names().collect::<Vec<_>>(), ["C"]);
    }

    #[test]
    fn the_directory_follows_its_variable_then_home() {
        let home = Environment::from_iter([("HOME", "/home/ada")]);
        assert_eq!(home.config_dir(), Some("/home/ada/.config".into()));
        let named = Environment::from_iter([("HOME", "/home/ada"), ("XDG_CONFIG_HOME", "/etc")]);
        assert_eq!(named.config_dir(), Some("/etc".into()));
        assert_eq!(Environment::default().config_dir(), None);
    }
}
