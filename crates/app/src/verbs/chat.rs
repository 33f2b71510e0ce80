use std::io::{self, Write};
use std::sync::atomic::Ordering;

use clap::Args;
use rustyline::error::ReadlineError;
use rustyline::{Config, DefaultEditor};
use whit::generate::text::TextModel;
use whit::generate::{Finish, Request, Sampling, Scheduler};
use whit::load::Message;
use whit::methods::Plan;

use crate::context::Context;
use crate::error::AppError;
use crate::interrupt;
use crate::model::{MethodArguments, ModelArguments};
use crate::output;
use crate::sampling::SamplingArguments;

/// Talk with a model in the terminal
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(flatten)]
    model: ModelArguments,

    /// What the model should know before the conversation
    #[arg(long, value_name = "TEXT")]
    system: Option<String>,

    /// The most tokens of one answer
    #[arg(short = 'n', long, default_value_t = 1024)]
    max_tokens: usize,

    #[command(flatten)]
    methods: MethodArguments,

    #[command(flatten)]
    sampling: SamplingArguments,
}

/// A conversation.
struct Chat<'m> {
    model: &'m TextModel,
    plan: Plan,
    sampling: Sampling,
    max_tokens: usize,
    messages: Vec<Message>,
    system: Option<String>,
}

const HELP: &str = "\
/help            this list
/clear           forget the conversation
/system TEXT     what the model should know; without TEXT, nothing
/retry           answer the last message again
/undo            take the last message and its answer back
/history         the conversation so far
/save FILE       write the conversation as JSON
/quit            leave (or Ctrl-D)
Ctrl-C stops an answer. A line that ends in \\ goes on in the next one.";

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    let files = arguments.model.files()?;
    let plan = arguments.methods.plan(&arguments.model, &files, context)?;
    if arguments.methods.dry_run {
        return context.emit(&plan.to_json(), || plan.to_string());
    }
    let model = arguments.model.open(files, context)?;
    let mut chat = Chat {
        sampling: arguments.sampling.resolve(&model.generation)?,
        model: &model,
        plan,
        max_tokens: arguments.max_tokens,
        messages: Vec::new(),
        system: arguments.system,
    };
    if model.chat_template.is_none() {
        eprintln!("note: this model has no chat template; messages are joined as plain text");
    }
    eprintln!("{} · /help for commands", arguments.model.model);
    chat.talk()
}

impl Chat<'_> {
    /// Reads lines until the end.
    fn talk(&mut self) -> Result<(), AppError> {
        let config = Config::builder().auto_add_history(true).build();
        let mut editor = DefaultEditor::with_config(config).map_err(io::Error::other)?;
        while let Some(line) = read(&mut editor)? {
            match line.trim() {
                "" => {}
                "/quit" | "/exit" | "/q" => break,
                command if command.starts_with('/') => self.command(command)?,
                _ => self.say(line)?,
            }
        }
        Ok(())
    }

    fn say(&mut self, line: String) -> Result<(), AppError> {
        self.messages.push(Message::new("user", line));
        self.answer()
    }

    fn command(&mut self, line: &str) -> Result<(), AppError> {
        let (command, rest) =
            line.split_once(' ').map_or((line, ""), |(command, rest)| (command, rest.trim()));
        match command {
            "/help" => output::text(HELP),
            "/clear" => {
                self.messages.clear();
                Ok(())
            }
            "/system" => {
                self.system = (!rest.is_empty()).then(|| rest.to_owned());
                Ok(())
            }
            "/undo" => {
                self.undo();
                Ok(())
            }
            "/retry" => self.retry(),
            "/history" => self
                .messages
                .iter()
                .try_for_each(|one| output::text(&format!("{}: {}", one.role, one.content))),
            "/save" => self.save(rest),
            _ => output::text(&format!("there is no command {command}; /help lists them")),
        }
    }

    fn undo(&mut self) {
        while self.messages.pop().is_some_and(|message| message.role != "user") {}
    }

    fn retry(&mut self) -> Result<(), AppError> {
        if self.messages.last().is_some_and(|message| message.role == "assistant") {
            self.messages.pop();
        }
        if self.messages.is_empty() {
            return output::text("there is nothing to answer yet");
        }
        self.sampling.seed = self.sampling.seed.wrapping_add(1);
        self.answer()
    }

    /// A file that cannot be written is reported, and the conversation goes on.
    fn save(&self, path: &str) -> Result<(), AppError> {
        if path.is_empty() {
            return output::text("/save needs a file name");
        }
        let json = serde_json::to_string_pretty(&self.messages).map_err(io::Error::other)?;
        match std::fs::write(path, json) {
            Ok(()) => output::text(&format!("saved {} messages in {path}", self.messages.len())),
            Err(reason) => output::text(&format!("cannot write {path}: {reason}")),
        }
    }

    /// Streams an answer; Ctrl-C ends it and keeps what was said.
    fn answer(&mut self) -> Result<(), AppError> {
        let interrupted = interrupt::flag();
        interrupted.store(false, Ordering::SeqCst);
        let mut scheduler = Scheduler::new(&self.model.decoder);
        let request = Request {
            max_tokens: self.max_tokens,
            sampling: self.sampling.clone(),
            stop_tokens: self.model.stop_tokens(),
            ..Request::written(self.model.conversation(&self.with_system())?)?
        };
        let id = match scheduler.add(request, self.plan.begin()) {
            Ok(id) => id,
            Err(error) => {
                return output::text(&format!(
                    "{error}\n/clear starts over, /undo takes the last message back"
                ));
            }
        };
        let mut stream = self.model.stream(Vec::new());
        while scheduler.is_busy() {
            for event in scheduler.step()? {
                show(&stream.push(&event.tokens)?)?;
            }
            if interrupted.swap(false, Ordering::SeqCst) {
                scheduler.end(id, Finish::Cancelled);
            }
        }
        show(&(stream.finish()? + "\n"))?;
        self.messages.push(Message::new("assistant", stream.text()));
        Ok(())
    }

    fn with_system(&self) -> Vec<Message> {
        let system = self.system.iter().map(|text| Message::new("system", text.as_str()));
        system.chain(self.messages.iter().cloned()).collect()
    }
}

fn show(text: &str) -> Result<(), AppError> {
    let mut out = io::stdout().lock();
    out.write_all(text.as_bytes())?;
    Ok(out.flush()?)
}

/// One message, of one line or of several joined by backslashes; none at the end of input.
fn read(editor: &mut DefaultEditor) -> Result<Option<String>, AppError> {
    let mut text = String::new();
    loop {
        match editor.readline(if text.is_empty() { "> " } else { "… " }) {
            Ok(line) => match line.strip_suffix('\\') {
                Some(part) => text += &format!("{part}\n"),
                None => return Ok(Some(text + &line)),
            },
            Err(ReadlineError::Interrupted) => text.clear(),
            Err(ReadlineError::Eof) => return Ok(None),
            Err(error) => return Err(AppError::Output(io::Error::other(error))),
        }
    }
}
