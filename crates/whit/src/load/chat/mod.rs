//! Chat templates: Jinja programs that come with a model and turn a conversation into its prompt.
//!
//! They are rendered with the conventions of Hugging Face transformers (`apply_chat_template`): blocks are
//! trimmed, Python's string and dictionary methods exist, and so do `raise_exception`, `strftime_now`, `tojson`.
//! A template is a program from a stranger, so its work, memory and recursion are limited.

mod json;
mod time;

use std::path::{Path, PathBuf};

use minijinja::syntax::SyntaxConfig;
use minijinja::{Environment, Error, ErrorKind, State, Value, context};
use serde::{Deserialize, Serialize};

use super::LoadError;

/// Largest template accepted, in bytes; the longest published ones have about 20 kB.
const TEMPLATE_LIMIT: usize = 1 << 20;
/// Work one rendering may do, in the engine's unit: an instruction, or 64 bytes of text.
const FUEL: u64 = 20_000_000;
/// Nesting of macros and loops.
const RECURSION: usize = 200;
const NAME: &str = "chat";

/// One turn of a conversation.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// What was said.
    pub content: String,
}

impl Message {
    /// A turn of this role.
    pub fn new(role: impl Into<String>, content: impl Into<String>) -> Self {
        Self { role: role.into(), content: content.into() }
    }
}

impl From<&Message> for Value {
    fn from(message: &Message) -> Self {
        Self::from_pairs([("role", message.role.as_str()), ("content", message.content.as_str())])
    }
}

/// The special tokens that templates may insert by name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SpecialTokens {
    /// Text of the token that begins a document.
    pub bos: Option<String>,
    /// Text of the token that ends one.
    pub eos: Option<String>,
    /// Text of the padding token.
    pub pad: Option<String>,
    /// Text of the token for unknown text.
    pub unk: Option<String>,
}

/// A compiled chat template.
#[derive(Debug, Clone)]
pub struct ChatTemplate {
    environment: Environment<'static>,
    source: String,
    origin: PathBuf,
    tokens: SpecialTokens,
}

impl ChatTemplate {
    /// Compiles a template; `origin` is the file named in errors.
    ///
    /// # Errors
    /// [`LoadError::Template`] for a syntax error or a template of more than a mebibyte.
    pub fn new(source: &str, tokens: SpecialTokens, origin: &Path) -> Result<Self, LoadError> {
        let fail = |reason: String| template_error(origin, "does not compile", reason);
        if source.len() > TEMPLATE_LIMIT {
            return Err(fail(format!("it has {} bytes, {TEMPLATE_LIMIT} are allowed", source.len())));
        }
        let mut environment = environment().map_err(|e| fail(describe(&e)))?;
        let adapted = without_generation_marks(source);
        environment.add_template_owned(NAME, adapted).map_err(|e| fail(describe(&e)))?;
        Ok(Self { environment, source: source.to_owned(), origin: origin.to_owned(), tokens })
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// The tokens that it may insert by name.
    pub fn tokens(&self) -> &SpecialTokens {
        &self.tokens
    }

    /// The prompt for a conversation. With `add_generation_prompt` it ends where the assistant's answer begins.
    ///
    /// # Errors
    /// [`LoadError::Template`] if the template refuses the conversation (roles in a wrong order, say), fails, or
    /// exceeds the limits on its work.
    pub fn render(&self, messages: &[Message], add_generation_prompt: bool) -> Result<String, LoadError> {
        let text = |token: &Option<String>| token.clone().map_or(Value::UNDEFINED, Value::from);
        let context = context! {
            messages => messages.iter().map(Value::from).collect::<Vec<_>>(), add_generation_prompt,
            tools => (), documents => (),
            bos_token => text(&self.tokens.bos), eos_token => text(&self.tokens.eos),
            pad_token => text(&self.tokens.pad), unk_token => text(&self.tokens.unk),
        };
        let rendered = self.environment.get_template(NAME).and_then(|t| t.render(context));
        rendered.map_err(|e| template_error(&self.origin, "does not render", describe(&e)))
    }
}

fn environment() -> Result<Environment<'static>, Error> {
    let mut environment = Environment::new();
    environment.set_syntax(SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build()?);
    environment.set_fuel(Some(FUEL));
    environment.set_recursion_limit(RECURSION);
    environment.set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
    environment.set_formatter(python_formatter);
    environment.add_filter("tojson", json::tojson);
    environment.add_function("raise_exception", raise_exception);
    environment.add_function("strftime_now", |format: &str| time::strftime(format, time::now()));
    Ok(environment)
}

/// Prints the three constants as Python does.
fn python_formatter(out: &mut minijinja::Output, state: &mut State, value: &Value) -> Result<(), Error> {
    let constant = match value {
        v if v.is_none() => Some("None"),
        v if v.kind() == minijinja::value::ValueKind::Bool => {
            Some(if v.is_true() { "True" } else { "False" })
        }
        _ => None,
    };
    match constant {
        Some(text) => out.write_str(text).map_err(Error::from),
        None => minijinja::escape_formatter(out, state, value),
    }
}

fn raise_exception(message: String) -> Result<Value, Error> {
    Err(Error::new(ErrorKind::InvalidOperation, message))
}

/// Removes `{% generation %}` and its end: they mark the assistant's text for training and print nothing.
fn without_generation_marks(source: &str) -> String {
    let mut result = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let Some(length) = rest[start..].find("%}") else { break };
        let tag = &rest[start + 2..start + length];
        let word = tag.trim_matches(['-', '+']).trim();
        let end = start + length + 2;
        result.push_str(&rest[..start]);
        match word {
            "generation" => result.push_str(&["{%", &tag.replace("generation", "if true"), "%}"].concat()),
            "endgeneration" => {
                result.push_str(&["{%", &tag.replace("endgeneration", "endif"), "%}"].concat())
            }
            _ => result.push_str(&rest[start..end]),
        }
        rest = &rest[end..];
    }
    result + rest
}

/// The whole chain of reasons in one line.
fn describe(error: &Error) -> String {
    let mut text = error.to_string();
    let mut source = std::error::Error::source(error);
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}

fn template_error(path: &Path, stage: &'static str, reason: String) -> LoadError {
    LoadError::Template { path: path.to_owned(), stage, reason }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn template(source: &str) -> Result<ChatTemplate, LoadError> {
        let tokens =
            SpecialTokens { bos: Some("<s>".into()), eos: Some("</s>".into()), ..Default::default() };
        ChatTemplate::new(source, tokens, Path::new("test"))
    }

    fn render(source: &str, turns: &[(&str, &str)]) -> Result<String, LoadError> {
        let messages: Vec<_> = turns.iter().map(|&(role, content)| Message::new(role, content)).collect();
        template(source)?.render(&messages, true)
    }

    #[test]
    fn chatml_is_rendered_as_by_transformers() {
        let source = "{%- for message in messages %}\n    {{- '<|im_start|>' + message.role + '\\n' }}\n    \
                      {{- message['content'].strip() + '<|im_end|>\\n' }}\n{%- endfor %}\n\
                      {%- if add_generation_prompt %}\n    {{- '<|im_start|>assistant\\n' }}\n{%- endif %}\n";
        let text = render(source, &[("system", "Be brief."), ("user", " Hi ")]).unwrap();
        let expected = "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n\
                        <|im_start|>assistant\n";
        assert_eq!(text, expected);
    }

    #[test]
    fn blocks_are_trimmed_and_python_is_spoken() {
        assert_eq!(render("  {% if true %}\nx\n  {% endif %}\ny", &[]).unwrap(), "x\ny");
        assert_eq!(render("{{ bos_token }}{{ tools is none }}{{ none }}", &[]).unwrap(), "<s>TrueNone");
        assert_eq!(render("{{ pad_token is defined }}{{ missing }}", &[]).unwrap(), "False");
        assert_eq!(
            render("{{ {'a': [1, '<é>', true]} | tojson }}", &[]).unwrap(),
            r#"{"a": [1, "<é>", true]}"#
        );
        assert_eq!(render("{{ 'a,b'.split(',')[1].upper() }}{{ {'k': 1}.get('z', 2) }}", &[]).unwrap(), "B2");
        assert_eq!(
            render("{% for i in [1,2,3] %}{% if i == 2 %}{% break %}{% endif %}{{ i }}{% endfor %}", &[])
                .unwrap(),
            "1"
        );
        assert_eq!(render("{% set ns = namespace(n=0) %}{% for m in messages %}{% set ns.n = ns.n + 1 %}{% endfor %}{{ ns.n }}", &[("a", "b")]).unwrap(), "1");
        assert_eq!(render("{% generation %}a{%- endgeneration %}b", &[]).unwrap(), "ab");
        assert_eq!(render("{{ strftime_now('%Y') | length }}", &[]).unwrap(), "4");
        assert_eq!(render("{{ '<b>' }}", &[]).unwrap(), "<b>");
    }

    #[test]
    fn a_template_may_refuse() {
        let error = render("{{ raise_exception('roles must alternate') }}", &[]).unwrap_err();
        assert!(error.to_string().contains("roles must alternate"), "{error}");
    }

    #[test]
    fn endless_cyclic_and_huge_templates_are_errors() {
        for source in [
            "{% for a in range(100000) %}{% for b in range(100000) %}x{% endfor %}{% endfor %}",
            "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
            "{% include 'chat' %}",
            "{{ 'x' * 10000000000 }}",
            "{% set ns = namespace(t='xxxxxxxx') %}{% for i in range(60) %}{% set ns.t = ns.t ~ ns.t %}{% endfor %}{{ ns.t }}",
        ] {
            let error = render(source, &[]).unwrap_err();
            assert!(
                matches!(error, LoadError::Template { stage: "does not render", .. }),
                "{source}: {error}"
            );
        }
        for source in [
            "{% if %}",
            &"{{ ".repeat(1000),
            &"(".repeat(100_000),
            &"{{ (".repeat(2),
            &" ".repeat(TEMPLATE_LIMIT + 1),
        ] {
            let Err(error) = template(source) else { continue };
            assert!(matches!(error, LoadError::Template { stage: "does not compile", .. }), "{error}");
        }
        assert!(template("{% if %}").is_err() && template(&" ".repeat(TEMPLATE_LIMIT + 1)).is_err());
        assert!(template(&format!("{{{{ {} }}}}", "(".repeat(100_000))).is_err());
    }
}
