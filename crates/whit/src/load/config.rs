//! Typed access to a model's configuration, with errors that name the key, the value and what is allowed.

use std::fmt::Display;
use std::ops::RangeInclusive;

use serde_json::{Map, Value};

/// What is wrong with a configuration value.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum ConfigError {
    #[error("the configuration is {found}, it must be a JSON object")]
    NotAnObject { found: &'static str },
    #[error("the key {key:?} is missing; it must be {wanted}")]
    Missing { key: String, wanted: String },
    #[error("the key {key:?} has the value {value}; it must be {wanted}")]
    Invalid { key: String, value: String, wanted: String },
}

/// A JSON object of settings under an optional prefix used in messages (`rope_scaling.`).
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    map: &'a Map<String, Value>,
    prefix: &'a str,
}

impl<'a> Settings<'a> {
    /// The settings of a whole configuration.
    ///
    /// # Errors
    /// [`ConfigError::NotAnObject`].
    pub fn new(config: &'a Value) -> Result<Self, ConfigError> {
        let found = kind(config);
        let map = config.as_object().ok_or(ConfigError::NotAnObject { found })?;
        Ok(Self { map, prefix: "" })
    }

    /// The object under a key; absent and null are `None`.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] if it is something else than an object.
    pub fn section(&self, key: &'a str) -> Result<Option<Self>, ConfigError> {
        let value = self.get(key);
        let section = value.map(|v| v.as_object().ok_or_else(|| self.invalid(key, v, &"an object")));
        Ok(section.transpose()?.map(|map| Self { map, prefix: key }))
    }

    /// The raw value; null counts as absent, as in Hugging Face configurations.
    pub fn get(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|v| !v.is_null())
    }

    /// Whole number in a range.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] or [`ConfigError::Invalid`].
    pub fn usize(&self, key: &str, allowed: RangeInclusive<usize>) -> Result<usize, ConfigError> {
        self.usize_if(key, allowed.clone())?.ok_or_else(|| self.missing(key, &whole(&allowed)))
    }

    /// Whole number in a range, or `default` when absent.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn usize_or(
        &self,
        key: &str,
        default: usize,
        allowed: RangeInclusive<usize>,
    ) -> Result<usize, ConfigError> {
        Ok(self.usize_if(key, allowed)?.unwrap_or(default))
    }

    /// Whole number in a range, or `None` when absent.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn usize_if(&self, key: &str, allowed: RangeInclusive<usize>) -> Result<Option<usize>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_u64().and_then(|n| usize::try_from(n).ok()).filter(|n| allowed.contains(n));
        number.map(Some).ok_or_else(|| self.invalid(key, value, &whole(&allowed)))
    }

    /// Finite number in a range.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] or [`ConfigError::Invalid`].
    pub fn f64(&self, key: &str, allowed: RangeInclusive<f64>) -> Result<f64, ConfigError> {
        self.f64_if(key, allowed.clone())?.ok_or_else(|| self.missing(key, &real(&allowed)))
    }

    /// Finite number in a range, or `default` when absent.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn f64_or(&self, key: &str, default: f64, allowed: RangeInclusive<f64>) -> Result<f64, ConfigError> {
        Ok(self.f64_if(key, allowed)?.unwrap_or(default))
    }

    /// Finite number in a range, or `None` when absent.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn f64_if(&self, key: &str, allowed: RangeInclusive<f64>) -> Result<Option<f64>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let number = value.as_f64().filter(|n| allowed.contains(n));
        number.map(Some).ok_or_else(|| self.invalid(key, value, &real(&allowed)))
    }

    /// Truth value, or `default` when absent.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn bool_or(&self, key: &str, default: bool) -> Result<bool, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        value.as_bool().ok_or_else(|| self.invalid(key, value, &"true or false"))
    }

    /// Text.
    ///
    /// # Errors
    /// [`ConfigError::Missing`] or [`ConfigError::Invalid`].
    pub fn str(&self, key: &str) -> Result<&'a str, ConfigError> {
        self.str_if(key)?.ok_or_else(|| self.missing(key, &"a string"))
    }

    /// Text, or `None` when absent.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn str_if(&self, key: &str) -> Result<Option<&'a str>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        value.as_str().map(Some).ok_or_else(|| self.invalid(key, value, &"a string"))
    }

    /// A list of finite numbers, or `None` when absent.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn numbers_if(&self, key: &str) -> Result<Option<Vec<f64>>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let numbers = value.as_array().and_then(|items| items.iter().map(Value::as_f64).collect());
        numbers.map(Some).ok_or_else(|| self.invalid(key, value, &"a list of numbers"))
    }

    /// Token ids: one number or a list of them; absent is an empty list.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`].
    pub fn token_ids(&self, key: &str) -> Result<Vec<u32>, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(Vec::new()) };
        let one = |v: &Value| v.as_u64().and_then(|n| u32::try_from(n).ok());
        let ids = match value {
            Value::Array(items) => items.iter().map(one).collect(),
            single => one(single).map(|id| vec![id]),
        };
        ids.ok_or_else(|| self.invalid(key, value, &"a token id or a list of token ids"))
    }

    /// One of the named choices, or `default` when absent.
    ///
    /// # Errors
    /// [`ConfigError::Invalid`] listing the choices.
    pub fn choice<T: Copy>(&self, key: &str, default: T, choices: &[(&str, T)]) -> Result<T, ConfigError> {
        let Some(value) = self.get(key) else { return Ok(default) };
        let found = choices.iter().find(|(name, _)| value.as_str() == Some(name));
        let names: Vec<_> = choices.iter().map(|(name, _)| *name).collect();
        found
            .map(|(_, choice)| *choice)
            .ok_or_else(|| self.invalid(key, value, &format_args!("one of {}", names.join(", "))))
    }

    /// The error for a value that is wrong for a reason the getters do not know.
    pub fn invalid(&self, key: &str, value: &Value, wanted: &dyn Display) -> ConfigError {
        let mut value = value.to_string();
        if value.chars().count() > 80 {
            value = value.chars().take(77).chain("...".chars()).collect();
        }
        ConfigError::Invalid { key: self.full(key), value, wanted: wanted.to_string() }
    }

    /// The error for a key that must be there.
    pub fn missing(&self, key: &str, wanted: &dyn Display) -> ConfigError {
        ConfigError::Missing { key: self.full(key), wanted: wanted.to_string() }
    }

    fn full(&self, key: &str) -> String {
        if self.prefix.is_empty() { key.to_owned() } else { format!("{}.{key}", self.prefix) }
    }
}

fn whole(allowed: &RangeInclusive<usize>) -> String {
    match (*allowed.start(), *allowed.end()) {
        (0, usize::MAX) => "a whole number".to_owned(),
        (low, usize::MAX) => format!("a whole number of at least {low}"),
        (low, high) => format!("a whole number from {low} to {high}"),
    }
}

fn real(allowed: &RangeInclusive<f64>) -> String {
    format!("a number from {:e} to {:e}", allowed.start(), allowed.end())
}

fn kind(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "a truth value",
        Value::Number(_) => "a number",
        Value::String(_) => "a string",
        Value::Array(_) => "a list",
        Value::Object(_) => "an object",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn values_come_with_their_types() {
        let config = json!({
            "layers": 4, "eps": 1e-5, "tied": true, "act": "silu", "none": null,
            "eos": [1, 2], "bos": 1, "rope": {"factor": 8}, "list": [1, 2.5]
        });
        let settings = Settings::new(&config).unwrap();
        assert_eq!(settings.usize("layers", 1..=10), Ok(4));
        assert_eq!(settings.usize_or("none", 7, 1..=10), Ok(7));
        assert_eq!(settings.f64("eps", 0.0..=1.0), Ok(1e-5));
        assert_eq!(settings.bool_or("tied", false), Ok(true));
        assert_eq!(settings.str("act"), Ok("silu"));
        assert_eq!(settings.token_ids("eos"), Ok(vec![1, 2]));
        assert_eq!(settings.token_ids("bos"), Ok(vec![1]));
        assert_eq!(settings.numbers_if("list"), Ok(Some(vec![1.0, 2.5])));
        assert_eq!(settings.section("rope").unwrap().unwrap().f64("factor", 1.0..=9.0), Ok(8.0));
        assert!(settings.section("none").unwrap().is_none());
        assert_eq!(settings.choice("act", 0, &[("relu", 1), ("silu", 2)]), Ok(2));
    }

    #[test]
    fn errors_name_key_value_and_range() {
        let config = json!({"layers": -4, "act": "tanh", "rope": {"factor": "8"}, "long": "x".repeat(200)});
        let settings = Settings::new(&config).unwrap();
        let message = settings.usize("layers", 1..=9).unwrap_err().to_string();
        assert_eq!(message, r#"the key "layers" has the value -4; it must be a whole number from 1 to 9"#);
        let message = settings.usize("heads", 1..=9).unwrap_err().to_string();
        assert_eq!(message, r#"the key "heads" is missing; it must be a whole number from 1 to 9"#);
        let message = settings.choice("act", 0, &[("relu", 1)]).unwrap_err().to_string();
        assert_eq!(message, r#"the key "act" has the value "tanh"; it must be one of relu"#);
        let rope = settings.section("rope").unwrap().unwrap();
        let message = rope.f64("factor", 1.0..=8.0).unwrap_err().to_string();
        assert_eq!(
            message,
            r#"the key "rope.factor" has the value "8"; it must be a number from 1e0 to 8e0"#
        );
        assert!(settings.bool_or("long", true).unwrap_err().to_string().len() < 160);
        assert!(settings.token_ids("act").is_err() && settings.numbers_if("act").is_err());
        assert_eq!(Settings::new(&json!([1])).unwrap_err(), ConfigError::NotAnObject { found: "a list" });
    }
}
