//! Which methods are wanted, with which knobs: from `--with`, or from JSON.

use serde::ser::{Serialize, SerializeMap, Serializer};

use super::{Knobs, METHODS, MethodError, Spec, error::nearest};

/// The methods that someone asked for, in the order they were given.
#[derive(Clone, Debug, Default)]
pub struct Selection {
    chosen: Vec<Knobs>,
}

impl Selection {
    /// Reads texts of the form `id` or `id:knob=value,flag,...`, one method each.
    ///
    /// # Errors
    /// If a method or knob is unknown or given twice, a value is not allowed, or the text has another form.
    pub fn parse<T: AsRef<str>>(texts: &[T]) -> Result<Self, MethodError> {
        let mut selection = Self::default();
        for text in texts {
            selection.push(parse_one(text.as_ref())?)?;
        }
        Ok(selection)
    }

    /// Reads an object of the form `{"id": {"knob": value}, "other-id": true}`; `null` selects nothing.
    ///
    /// # Errors
    /// As [`Selection::parse`].
    pub fn from_json(json: &serde_json::Value) -> Result<Self, MethodError> {
        let mut selection = Self::default();
        let methods = match json {
            serde_json::Value::Null => return Ok(selection),
            serde_json::Value::Object(methods) => methods,
            other => {
                return Err(malformed(
                    &other.to_string(),
                    "an object {\"id\": {\"knob\": value}} is expected",
                ));
            }
        };
        for (id, knobs) in methods {
            if *knobs != serde_json::Value::Bool(false) {
                selection.push(one_from_json(id, knobs)?)?;
            }
        }
        Ok(selection)
    }

    /// Adds a method.
    ///
    /// # Errors
    /// If it is already there.
    pub fn push(&mut self, knobs: Knobs) -> Result<(), MethodError> {
        let id = knobs.spec().id;
        if self.chosen.iter().any(|other| other.spec().id == id) {
            return Err(MethodError::Twice { name: id.into() });
        }
        self.chosen.push(knobs);
        Ok(())
    }

    /// The methods with their knobs, also those that a knob switches off.
    pub fn chosen(&self) -> &[Knobs] {
        &self.chosen
    }

    /// Whether nothing was asked for.
    pub fn is_empty(&self) -> bool {
        self.chosen.is_empty()
    }
}

impl Serialize for Selection {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut map = serializer.serialize_map(Some(self.chosen.len()))?;
        for knobs in &self.chosen {
            map.serialize_entry(knobs.spec().id, knobs)?;
        }
        map.end()
    }
}

/// The method of this name.
///
/// # Errors
/// If there is none; the error carries the nearest name.
pub fn find(id: &str) -> Result<&'static Spec, MethodError> {
    let found = METHODS.iter().copied().find(|spec| spec.id == id);
    found.ok_or_else(|| MethodError::UnknownMethod {
        id: id.into(),
        nearest: nearest(id, METHODS.iter().map(|spec| spec.id)),
    })
}

fn parse_one(text: &str) -> Result<Knobs, MethodError> {
    let (id, rest) = match text.split_once(':') {
        Some((_, "")) => return Err(malformed(text, "nothing follows the colon")),
        Some((id, rest)) => (id, Some(rest)),
        None => (text, None),
    };
    if id.is_empty() {
        return Err(malformed(text, "the name of the method is missing"));
    }
    let mut knobs = Knobs::defaults(find(id)?);
    let mut seen = Vec::new();
    for setting in rest.into_iter().flat_map(settings) {
        let (name, value) = match setting.split_once('=') {
            Some((name, value)) => (name.trim(), Some(value.trim())),
            None => (setting.trim(), None),
        };
        if name.is_empty() {
            return Err(malformed(text, "a knob has no name"));
        }
        if seen.contains(&name) {
            return Err(MethodError::Twice { name: format!("{id}:{name}") });
        }
        seen.push(name);
        match value {
            Some(value) => knobs.set_text(name, value)?,
            None => knobs.raise(name)?,
        }
    }
    Ok(knobs)
}

/// The parts between commas; a comma behind a backslash parts nothing.
fn settings(text: &str) -> Vec<&str> {
    let mut parts = Vec::new();
    let (mut start, mut escaped) = (0, false);
    for (at, letter) in text.char_indices() {
        if letter == ',' && !escaped {
            parts.push(&text[start..at]);
            start = at + 1;
        }
        escaped = letter == '\\' && !escaped;
    }
    parts.push(&text[start..]);
    parts
}

fn one_from_json(id: &str, json: &serde_json::Value) -> Result<Knobs, MethodError> {
    let mut knobs = Knobs::defaults(find(id)?);
    match json {
        serde_json::Value::Bool(true) => {}
        serde_json::Value::Object(settings) => {
            for (name, value) in settings {
                knobs.set_json(name, value)?;
            }
        }
        other => {
            return Err(malformed(
                &format!("{id}: {other}"),
                "true, false or an object of knobs is expected",
            ));
        }
    }
    Ok(knobs)
}

fn malformed(text: &str, reason: &'static str) -> MethodError {
    let mut text = text.to_owned();
    if let Some((end, _)) = text.char_indices().nth(80) {
        text.truncate(end);
        text.push_str("...");
    }
    MethodError::Malformed { text, reason }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::Value;
    use serde_json::json;

    fn error(text: &str) -> MethodError {
        Selection::parse(&[text]).unwrap_err()
    }

    fn tree(selection: &Selection) -> usize {
        selection.chosen()[0].int("tree")
    }

    #[test]
    fn text_and_json_say_the_same() {
        let text = Selection::parse(&["token-recycling:tree=25, tune=off,prompt"]).unwrap();
        let json = json!({"token-recycling": {"tree": 25, "tune": false, "prompt": true}});
        let json = Selection::from_json(&json).unwrap();
        assert_eq!(text.chosen()[0].to_string(), json.chosen()[0].to_string());
        assert_eq!(tree(&text), 25);
    }

    #[test]
    fn serialised_selections_read_back() {
        let selection = Selection::parse(&["token-recycling:tree=8"]).unwrap();
        let again = Selection::from_json(&serde_json::to_value(&selection).unwrap()).unwrap();
        assert_eq!(tree(&again), 8);
    }

    #[test]
    fn nothing_is_a_selection_too() {
        assert!(Selection::parse::<&str>(&[]).unwrap().is_empty());
        assert!(Selection::from_json(&json!(null)).unwrap().is_empty());
        assert!(Selection::from_json(&json!({"token-recycling": false})).unwrap().is_empty());
    }

    #[test]
    fn slips_are_named_and_corrected() {
        assert_eq!(error("token-recyling").hint(), "did you mean `token-recycling`?");
        assert_eq!(error("token-recycling:tre=8").hint(), "did you mean `tree`?");
        assert_eq!(error("zzz").hint(), "`whit methods` lists them all");
        let bad = error("token-recycling:tree=-3").to_string();
        assert!(
            ["token-recycling", "`tree`", "`-3`", "from 0 to 80"].iter().all(|part| bad.contains(part)),
            "{bad}"
        );
    }

    #[test]
    fn malformed_texts_are_refused() {
        for text in ["", ":", ":tree=1", "token-recycling:", "token-recycling:=1", "token-recycling:tree=1,"]
        {
            assert!(matches!(error(text), MethodError::Malformed { .. }), "{text}");
        }
        assert!(matches!(error("token-recycling:tree"), MethodError::MissingValue { knob: "tree", .. }));
        assert!(matches!(error("token-recycling:tree=1,tree=2"), MethodError::Twice { .. }));
        assert!(Selection::parse(&["token-recycling", "token-recycling"]).is_err());
        for json in [json!([]), json!("x"), json!({"token-recycling": 3}), json!({"token-recycling": null})] {
            assert!(matches!(Selection::from_json(&json), Err(MethodError::Malformed { .. })), "{json}");
        }
        assert!(Selection::from_json(&json!({"token-recycling": {"tree": "8"}})).is_err());
    }

    #[test]
    fn an_off_value_switches_off() {
        let mut knobs = Knobs::defaults(find("token-recycling").unwrap());
        assert!(!knobs.is_off());
        knobs.set("tree", Value::Int(0)).unwrap();
        assert!(knobs.is_off());
    }
}
