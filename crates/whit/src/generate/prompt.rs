//! The prompt before it is read: the text it was made from, which of its parts methods may cut, and
//! carrying out their cuts.

use std::ops::Range;
use std::sync::Arc;
use std::time::Instant;

use super::trace::{self, Trace};
use super::{GenerateError, Request};
use crate::load::{ChatTemplate, LoadError, Message, Tokenizer};
use crate::methods::{Edited, MethodError, Prompt, PromptEdit};

/// The text that a prompt was made from.
#[derive(Clone, Debug)]
pub struct Written {
    /// All of it, with the marks of a chat template.
    pub text: String,
    /// The bytes that methods may cut, in ascending order: what a user wrote, never a template.
    pub editable: Vec<Range<usize>>,
    /// Whether the tokenizer puts its own special tokens around the text.
    pub add_special: bool,
    /// The tokenizer of the model that will read it.
    pub tokenizer: Arc<Tokenizer>,
}

impl Written {
    /// A plain text, all of which may be cut.
    pub fn plain(text: &str, tokenizer: Arc<Tokenizer>) -> Self {
        let whole = 0..text.len();
        Self { text: text.to_owned(), editable: vec![whole], add_special: true, tokenizer }
    }

    /// A conversation up to where the model should answer; what the user said may be cut.
    ///
    /// # Errors
    /// If the template refuses the conversation.
    pub fn conversation(
        messages: &[Message],
        template: &ChatTemplate,
        tokenizer: Arc<Tokenizer>,
    ) -> Result<Self, LoadError> {
        let text = template.render(messages, true)?;
        let editable = said_by_users(&text, messages, template).unwrap_or_default();
        // Templates write their special tokens themselves.
        Ok(Self { text, editable, add_special: false, tokenizer })
    }

    /// Its tokens.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn ids(&self) -> Result<Vec<u32>, LoadError> {
        self.tokenizer.encode(&self.text, self.add_special)
    }

    /// The parts that may be cut.
    pub fn parts(&self) -> impl Iterator<Item = &str> {
        self.editable.iter().map(|part| &self.text[part.clone()])
    }

    /// How many tokens of the target model `text` is.
    ///
    /// # Errors
    /// If the text cannot be encoded.
    pub fn count(&self, text: &str) -> Result<usize, LoadError> {
        Ok(self.tokenizer.encode(text, false)?.len())
    }

    /// The same with other texts in the place of the parts that may be cut.
    fn with_parts(&self, parts: &[String]) -> Self {
        let mut next = parts.iter();
        self.rewritten(|_| next.next().cloned().unwrap_or_default())
    }

    /// The same with each editable part (by its bytes) rewritten.
    fn rewritten(&self, mut rewrite: impl FnMut(&Range<usize>) -> String) -> Self {
        let (mut text, mut editable, mut end) = (String::new(), Vec::new(), 0);
        for part in &self.editable {
            text += &self.text[end..part.start];
            let start = text.len();
            text += &rewrite(part);
            editable.push(start..text.len());
            end = part.end;
        }
        text += &self.text[end..];
        Self { text, editable, ..self.clone() }
    }

    /// The text that is left if only some tokens stay. `spans` are the bytes of each token.
    fn keeping(&self, spans: &[Range<usize>], kept: &[usize]) -> Self {
        let tiles = tiles(spans);
        self.rewritten(|part| {
            let inside = kept.iter().map(|&index| &tiles[index]);
            let inside = inside.map(|tile| tile.start.max(part.start)..tile.end.min(part.end));
            inside.filter(|tile| tile.start < tile.end).filter_map(|tile| self.text.get(tile)).collect()
        })
    }
}

/// The bytes of each token, with what a tokenizer skips before it (spaces, say), so that they tile the text.
fn tiles(spans: &[Range<usize>]) -> Vec<Range<usize>> {
    let mut end = 0;
    let tile = |span: &Range<usize>| {
        let start = end;
        end = end.max(span.end);
        start..end
    };
    spans.iter().map(tile).collect()
}

const OPEN: char = '\u{f8d0}';
const CLOSE: char = '\u{f8d1}';

/// Where the words of the users stand in a rendered conversation: the template is rendered again with
/// marks in their place. `None` if it treats the marks in another way than the words.
fn said_by_users(text: &str, messages: &[Message], template: &ChatTemplate) -> Option<Vec<Range<usize>>> {
    let mark = |(index, message): (usize, &Message)| match message.role.as_str() {
        "user" => Message::new("user", format!("{OPEN}{index}{CLOSE}")),
        _ => message.clone(),
    };
    let marked: Vec<Message> = messages.iter().enumerate().map(mark).collect();
    let marked = template.render(&marked, true).ok()?;
    let (mut found, mut at) = (Vec::new(), 0);
    let mut pieces = marked.split(OPEN);
    at += same(text, at, pieces.next()?)?;
    for piece in pieces {
        let (index, template) = piece.split_once(CLOSE)?;
        let said = &messages.get(index.parse::<usize>().ok()?)?.content;
        let length = same(text, at, said).or_else(|| same(text, at, said.trim()))?;
        found.push(at..at + length);
        at += length;
        at += same(text, at, template)?;
    }
    (at == text.len()).then_some(found)
}

/// The length of `part` if `text` goes on with it at `at`.
fn same(text: &str, at: usize, part: &str) -> Option<usize> {
    text.get(at..)?.starts_with(part).then_some(part.len())
}

/// What the edits of a prompt did.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Cut {
    /// Tokens before.
    pub(super) original: usize,
    /// Seconds that it took.
    pub(super) seconds: f64,
}

/// Lets every method shorten the prompt of `request`, each what the one before left.
pub(super) fn edit(
    request: &mut Request,
    edits: &mut [Box<dyn PromptEdit>],
    mut trace: Option<&mut Trace>,
) -> Result<Cut, GenerateError> {
    let start = Instant::now();
    let original = request.prompt.len();
    for edit in &mut *edits {
        let source = Source::of(request)?;
        let prompt =
            Prompt { written: request.written.as_ref(), ids: &request.prompt, editable: &source.editable };
        let edited = edit.edit(&prompt)?;
        let before = trace.as_ref().filter(|_| edited != Edited::Unchanged).map(|_| {
            let stayed = source.stayed(&edited, edit.stayed(), request);
            (request.prompt.len(), text(request), stayed)
        });
        source.apply(edited, request)?;
        if let (Some(trace), Some((tokens, before, stayed))) = (&mut trace, before) {
            let tokens = [tokens, request.prompt.len()];
            trace.cut(trace::Cut { tokens, before, after: text(request), stayed });
        }
    }
    let seconds = if edits.is_empty() { 0.0 } else { start.elapsed().as_secs_f64() };
    Ok(Cut { original, seconds })
}

/// The tokens of a prompt beside its text.
struct Source {
    /// The bytes of each token, where there is a text.
    spans: Vec<Range<usize>>,
    /// The tokens that may be cut.
    editable: Vec<Range<usize>>,
}

impl Source {
    fn of(request: &mut Request) -> Result<Self, GenerateError> {
        let Some(written) = &request.written else {
            let whole = 0..request.prompt.len();
            return Ok(Self { spans: Vec::new(), editable: vec![whole] });
        };
        let (ids, spans) = written.tokenizer.encode_with_spans(&written.text, written.add_special)?;
        request.prompt = ids;
        let editable = runs(spans.iter().map(|span| {
            let inside = |part: &Range<usize>| part.start <= span.start && span.end <= part.end;
            !span.is_empty() && written.editable.iter().any(inside)
        }));
        Ok(Self { spans, editable })
    }

    fn apply(&self, edited: Edited, request: &mut Request) -> Result<(), GenerateError> {
        match (edited, &mut request.written) {
            (Edited::Unchanged, _) => {}
            (Edited::Kept(kept), written) => {
                self.check(&kept, request.prompt.len())?;
                if let Some(written) = written {
                    *written = written.keeping(&self.spans, &kept);
                }
                request.prompt = kept.iter().map(|&index| request.prompt[index]).collect();
            }
            (Edited::Parts(parts), Some(written)) if parts.len() == written.editable.len() => {
                *written = written.with_parts(&parts);
                request.prompt = written.ids()?;
            }
            (Edited::Parts(parts), written) => {
                let wanted = written.as_ref().map_or(0, |written| written.editable.len());
                return Err(MethodError::Edit { found: format!("{} texts for {wanted}", parts.len()) }.into());
            }
        }
        Ok(())
    }

    /// The bytes of the text that an edit leaves, where that is known: `parts` are those of each part that
    /// may be cut.
    fn stayed(
        &self,
        edited: &Edited,
        parts: &[Vec<Range<usize>>],
        request: &Request,
    ) -> Option<Vec<Range<usize>>> {
        let written = request.written.as_ref()?;
        let (mut stayed, mut end) = (Vec::new(), 0);
        match edited {
            Edited::Kept(kept) => {
                let tiles = tiles(&self.spans);
                stayed.extend(kept.iter().filter_map(|&index| tiles.get(index).cloned()));
            }
            Edited::Parts(_) if parts.len() == written.editable.len() => {
                for (part, inside) in written.editable.iter().zip(parts) {
                    stayed.push(end..part.start);
                    stayed
                        .extend(inside.iter().map(|bytes| part.start + bytes.start..part.start + bytes.end));
                    end = part.end;
                }
                stayed.push(end..written.text.len());
            }
            Edited::Unchanged | Edited::Parts(_) => return None,
        }
        stayed.retain(|bytes| !bytes.is_empty());
        Some(stayed)
    }

    /// Kept tokens must ascend, and whatever may not be cut must be among them.
    fn check(&self, kept: &[usize], tokens: usize) -> Result<(), MethodError> {
        let mut stays = vec![false; tokens];
        for (at, &index) in kept.iter().enumerate() {
            if index >= tokens || (at > 0 && kept[at - 1] >= index) {
                return Err(MethodError::Edit { found: format!("token {index} out of order") });
            }
            stays[index] = true;
        }
        self.editable.iter().for_each(|part| stays[part.clone()].fill(true));
        match stays.iter().position(|&stays| !stays) {
            Some(index) => {
                Err(MethodError::Edit { found: format!("token {index}, which must stay, is cut") })
            }
            None => Ok(()),
        }
    }
}

fn text(request: &Request) -> String {
    request.written.as_ref().map_or(String::new(), |written| written.text.clone())
}

/// The ranges of consecutive true values.
fn runs(values: impl Iterator<Item = bool>) -> Vec<Range<usize>> {
    let mut runs: Vec<Range<usize>> = Vec::new();
    for (index, _) in values.enumerate().filter(|(_, value)| *value) {
        match runs.last_mut() {
            Some(run) if run.end == index => run.end += 1,
            _ => runs.push(index..index + 1),
        }
    }
    runs
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use serde_json::Value;

    use super::*;
    use crate::load::SpecialTokens;

    /// Drops every token or word that the test says.
    #[derive(Debug)]
    enum Cutter {
        Tokens(fn(usize) -> bool),
        Words(fn(&str) -> bool),
        Nothing,
        Wrong(Edited),
    }

    impl PromptEdit for Cutter {
        fn edit(&mut self, prompt: &Prompt<'_>) -> Result<Edited, MethodError> {
            let editable = |index: &usize| prompt.editable.iter().any(|part| part.contains(index));
            Ok(match self {
                Self::Tokens(keep) => {
                    let all = 0..prompt.ids.len();
                    Edited::Kept(all.filter(|index| !editable(index) || keep(*index)).collect())
                }
                Self::Words(keep) => {
                    let words =
                        |part: &str| part.split(' ').filter(|word| keep(word)).collect::<Vec<_>>().join(" ");
                    Edited::Parts(prompt.written.unwrap().parts().map(words).collect())
                }
                Self::Nothing => Edited::Unchanged,
                Self::Wrong(edited) => edited.clone(),
            })
        }
    }

    fn cut(request: &mut Request, cutters: Vec<Cutter>) -> Result<Cut, String> {
        let mut edits: Vec<Box<dyn PromptEdit>> =
            cutters.into_iter().map(|cutter| Box::new(cutter) as _).collect();
        edit(request, &mut edits, None).map_err(|error| error.to_string())
    }

    fn folder(name: &str) -> std::path::PathBuf {
        Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures/tokenizers").join(name)
    }

    fn tokenizer(name: &str) -> Arc<Tokenizer> {
        Arc::new(Tokenizer::open(&folder(name).join("tokenizer.json")).unwrap())
    }

    fn template(name: &str) -> ChatTemplate {
        let config = std::fs::read_to_string(folder(name).join("tokenizer_config.json")).unwrap();
        let config: Value = serde_json::from_str(&config).unwrap();
        let own = std::fs::read_to_string(folder(name).join("chat_template.jinja"));
        let source = own.unwrap_or_else(|_| config["chat_template"].as_str().unwrap().to_owned());
        let text = |key: &str| config[key].as_str().map(str::to_owned);
        let tokens = SpecialTokens { bos: text("bos_token"), eos: text("eos_token"), ..Default::default() };
        ChatTemplate::new(&source, tokens, &folder(name)).unwrap()
    }

    #[test]
    fn only_what_users_said_may_be_cut() {
        let messages = [
            Message::new("user", " one um two\n"),
            Message::new("assistant", "um three"),
            Message::new("user", "four um"),
        ];
        for name in ["byte-level", "byte-fallback"] {
            let tokenizer = tokenizer(name);
            let written = Written::conversation(&messages, &template(name), tokenizer).unwrap();
            let said: Vec<&str> = written.parts().map(str::trim).collect();
            assert_eq!(said, ["one um two", "four um"], "{name}");
            let mut request = Request::written(written.clone()).unwrap();
            cut(&mut request, vec![Cutter::Words(|word| word != "um")]).unwrap();
            let shorter = written.text.replacen("one um two", "one two", 1).replacen("four um", "four", 1);
            assert_eq!(request.written.as_ref().unwrap().text, shorter);
            assert_eq!(request.prompt, request.written.unwrap().ids().unwrap());
        }
    }

    #[test]
    fn words_that_stand_in_the_template_too_are_found_in_the_right_place() {
        let template =
            ChatTemplate::new("user: {{ messages[0].content }} user", SpecialTokens::default(), "x".as_ref());
        let written = Written::conversation(
            &[Message::new("user", "user")],
            &template.unwrap(),
            tokenizer("byte-level"),
        );
        assert_eq!(written.unwrap().editable, [Range { start: 6, end: 10 }]);
        let upper = "{{ messages[0].content | upper }}";
        let template = ChatTemplate::new(upper, SpecialTokens::default(), "x".as_ref());
        let message = Message::new("user", "changed");
        let written = Written::conversation(&[message], &template.unwrap(), tokenizer("byte-level"));
        assert!(written.unwrap().editable.is_empty());
    }

    #[test]
    fn tokens_that_are_cut_leave_the_text_that_later_methods_see() {
        for name in ["byte-level", "byte-fallback"] {
            let tokenizer = tokenizer(name);
            let written = Written::plain("a bé c d e f", tokenizer);
            let mut request = Request::written(written).unwrap();
            let before = request.prompt.clone();
            let kept = cut(&mut request, vec![Cutter::Tokens(|index| index % 2 == 0)]).unwrap();
            assert_eq!(kept.original, before.len());
            let first = usize::from(name == "byte-fallback"); // <s> stays
            let wanted: Vec<u32> =
                (0..before.len()).filter(|at| at % 2 == 0 || *at < first).map(|at| before[at]).collect();
            assert_eq!(request.prompt, wanted, "{name}");
            let text = request.written.as_ref().unwrap().text.clone();
            assert!(text.len() < 12 && text.chars().all(|letter| "a bé c d e f".contains(letter)), "{text}");
            cut(&mut request, vec![Cutter::Words(|_| false)]).unwrap();
            assert_eq!(request.written.unwrap().text, "");
        }
    }

    #[test]
    fn tokens_without_a_text_can_be_cut_too() {
        let mut request = Request { prompt: (0..9).collect(), ..Request::default() };
        cut(&mut request, vec![Cutter::Tokens(|index| index > 3), Cutter::Tokens(|index| index > 1)])
            .unwrap();
        assert_eq!(request.prompt, [6, 7, 8]);
        assert_eq!(cut(&mut request, vec![Cutter::Nothing]).unwrap().original, 3);
        assert_eq!(request.prompt, [6, 7, 8]);
    }

    #[test]
    fn cuts_that_may_not_be_are_refused() {
        let written = Written::conversation(
            &[Message::new("user", "hello there")],
            &template("byte-level"),
            tokenizer("byte-level"),
        );
        let request = Request::written(written.unwrap()).unwrap();
        let cases = [
            (Edited::Kept(vec![1, 0]), "order"),
            (Edited::Kept(vec![9999]), "order"),
            (Edited::Kept(vec![]), "must stay"),
            (Edited::Parts(vec![]), "0 texts for 1"),
        ];
        for (edited, reason) in cases {
            let error = cut(&mut request.clone(), vec![Cutter::Wrong(edited)]).unwrap_err();
            assert!(error.contains(reason), "{error}");
        }
        let mut plain = Request { prompt: vec![1], ..Request::default() };
        assert!(cut(&mut plain, vec![Cutter::Wrong(Edited::Parts(vec!["x".into()]))]).is_err());
    }
}
