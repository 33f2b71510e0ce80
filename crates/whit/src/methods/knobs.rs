//! The resolved knobs of one method: every knob has a value, and every value is in its range.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::error::nearest;
use super::{Kind, Knob, MethodError, Spec, Value};

/// The values of all knobs of a method.
#[derive(Clone, Debug)]
pub struct Knobs {
    spec: &'static Spec,
    /// One for each knob of `spec`, in its order.
    values: Vec<Value>,
}

impl Knobs {
    /// All knobs at their defaults.
    pub fn defaults(spec: &'static Spec) -> Self {
        Self { spec, values: spec.knobs.iter().map(|knob| knob.default.clone()).collect() }
    }

    /// The method that they belong to.
    pub fn spec(&self) -> &'static Spec {
        self.spec
    }

    /// Each knob with its value.
    pub fn iter(&self) -> impl Iterator<Item = (&'static Knob, &Value)> {
        self.spec.knobs.iter().zip(&self.values)
    }

    /// Whether some knob is at the value that switches the method off.
    pub fn is_off(&self) -> bool {
        self.iter().any(|(knob, value)| knob.off.as_ref() == Some(value))
    }

    /// Sets one knob.
    ///
    /// # Errors
    /// If there is no such knob, or it does not take the value.
    pub fn set(&mut self, name: &str, value: Value) -> Result<(), MethodError> {
        let (index, knob) = self.find(name)?;
        if !knob.kind.allows(&value) {
            return Err(self.bad_value(knob, value.to_string()));
        }
        self.values[index] = value;
        Ok(())
    }

    /// Sets one knob from text, as in `--with id:name=text`.
    ///
    /// # Errors
    /// If there is no such knob, or it does not take the value.
    pub fn set_text(&mut self, name: &str, text: &str) -> Result<(), MethodError> {
        let (index, knob) = self.find(name)?;
        self.values[index] = knob.kind.parse(text).ok_or_else(|| self.bad_value(knob, text.into()))?;
        Ok(())
    }

    /// Sets one knob from JSON.
    ///
    /// # Errors
    /// If there is no such knob, or it does not take the value.
    pub fn set_json(&mut self, name: &str, json: &serde_json::Value) -> Result<(), MethodError> {
        let (index, knob) = self.find(name)?;
        self.values[index] =
            knob.kind.from_json(json).ok_or_else(|| self.bad_value(knob, json.to_string()))?;
        Ok(())
    }

    /// Sets a knob that was named without a value: a flag is meant to be true.
    ///
    /// # Errors
    /// If there is no such knob, or it is not a flag.
    pub fn raise(&mut self, name: &str) -> Result<(), MethodError> {
        let (index, knob) = self.find(name)?;
        if knob.kind != Kind::Flag {
            let (method, allowed) = (self.spec.id, knob.kind.to_string());
            return Err(MethodError::MissingValue { method, knob: knob.name, allowed });
        }
        self.values[index] = Value::Flag(true);
        Ok(())
    }

    /// The value of a whole-number knob.
    ///
    /// # Panics
    /// If the method has no such knob of that kind: a slip in the method's own file.
    pub fn int(&self, name: &str) -> usize {
        match self.get(name) {
            Some(Value::Int(value)) => *value,
            other => self.slip(name, other),
        }
    }

    /// The value of a ratio or number knob.
    ///
    /// # Panics
    /// As [`Knobs::int`].
    pub fn float(&self, name: &str) -> f64 {
        match self.get(name) {
            Some(Value::Float(value)) => *value,
            other => self.slip(name, other),
        }
    }

    /// The word of a choice knob.
    ///
    /// # Panics
    /// As [`Knobs::int`].
    pub fn choice(&self, name: &str) -> &'static str {
        match self.get(name) {
            Some(Value::Choice(value)) => value,
            other => self.slip(name, other),
        }
    }

    /// The value of a flag.
    ///
    /// # Panics
    /// As [`Knobs::int`].
    pub fn flag(&self, name: &str) -> bool {
        match self.get(name) {
            Some(Value::Flag(value)) => *value,
            other => self.slip(name, other),
        }
    }

    /// The text of a text knob.
    ///
    /// # Panics
    /// As [`Knobs::int`].
    pub fn text(&self, name: &str) -> &str {
        match self.get(name) {
            Some(Value::Text(value)) => value,
            other => self.slip(name, other),
        }
    }

    /// An error for a value that is in the knob's range but does not fit the model or another knob.
    pub fn unfit(&self, knob: &'static str, reason: impl Into<String>) -> MethodError {
        let value = self.get(knob).map(|value| value.to_string()).unwrap_or_default();
        MethodError::Unfit { method: self.spec.id, knob, value, reason: reason.into() }
    }

    fn get(&self, name: &str) -> Option<&Value> {
        self.iter().find(|(knob, _)| knob.name == name).map(|(_, value)| value)
    }

    fn slip(&self, name: &str, found: Option<&Value>) -> ! {
        panic!("method `{}` reads its knob `{name}` in a wrong way: it holds {found:?}", self.spec.id)
    }

    fn find(&self, name: &str) -> Result<(usize, &'static Knob), MethodError> {
        let knobs = self.spec.knobs;
        let found = knobs.iter().enumerate().find(|(_, knob)| knob.name == name);
        found.ok_or_else(|| MethodError::UnknownKnob {
            method: self.spec.id,
            knob: name.into(),
            nearest: nearest(name, knobs.iter().map(|knob| knob.name)),
            known: knobs.iter().map(|knob| knob.name).collect::<Vec<_>>().join(", "),
        })
    }

    fn bad_value(&self, knob: &Knob, value: String) -> MethodError {
        MethodError::BadValue { method: self.spec.id, knob: knob.name, value, allowed: knob.kind.to_string() }
    }
}

impl Serialize for Knobs {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.values.len()))?;
        for (knob, value) in self.iter() {
            map.serialize_entry(knob.name, &value)?;
        }
        map.end()
    }
}

impl std::fmt::Display for Knobs {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let pairs = self.iter().map(|(knob, value)| format!("{}={value}", knob.name));
        f.write_str(&pairs.collect::<Vec<_>>().join(","))
    }
}
