//! Pages made from a [`Spec`]: one of Markdown for each method, and the table of the README.

use std::fmt::Write;

use super::{Kind, Knob, METHODS, ModelKind, Spec, Value};

/// Where the README's table of methods begins.
pub const TABLE_START: &str = "<!-- methods: written by `whit docs` -->";
/// Where it ends.
pub const TABLE_END: &str = "<!-- end of methods -->";

/// Every generated file: its path from the root of the repository, and its contents.
pub fn pages() -> Vec<(String, String)> {
    METHODS.iter().map(|spec| (format!("docs/methods/{}.md", spec.id), markdown(spec))).collect()
}

/// The documentation page of a method.
pub fn markdown(spec: &Spec) -> String {
    let mut page =
        format!("<!-- written by `whit docs`; edit the method's SPEC instead -->\n# {}\n\n", spec.title);
    let paper = &spec.paper;
    push(&mut page, &format!("`{}` · {} · {}", spec.id, spec.room, spec.fidelity));
    push(&mut page, spec.summary);
    push(
        &mut page,
        &format!(
            "{}, *{}*, {}, [{}]({})",
            paper.authors,
            paper.title,
            paper.year,
            paper.source(),
            paper.url()
        ),
    );
    push(&mut page, spec.long);
    push(&mut page, &format!("## Knobs\n\n{}", knob_table(spec)));
    push(&mut page, &format!("## What it touches\n\n{}", touches(spec)));
    if !spec.headlines.is_empty() {
        push(&mut page, &format!("## What the paper reports\n\n{}", headline_table(spec)));
    }
    push(&mut page, &format!("## Try it\n\n```\n{}\n```", examples(spec).join("\n")));
    page.truncate(page.trim_end().len());
    page.push('\n');
    page
}

/// Commands that show the method, for its manual.
pub fn examples(spec: &Spec) -> Vec<String> {
    let id = spec.id;
    if spec.is_offline() {
        return vec![
            format!("whit shrink --model DIR --with {id} --out SMALLER"),
            "whit generate --model SMALLER -p \"...\"".into(),
        ];
    }
    let (run, bench) = verbs(spec);
    let mut examples = vec![format!("{run} --with {id}")];
    if let Some(knob) = spec.knobs.first() {
        let (name, value) = (knob.name, another_value(knob));
        let dry = if bench.is_some() { " --dry-run" } else { "" };
        examples.push(format!("{run} --with {id}:{name}={value}{dry}"));
    }
    examples.extend(bench.map(|bench| format!("{bench} --model DIR --with {id}")));
    examples
}

/// The command that runs a model of the method's first kind, and the one that measures it, if there is one.
fn verbs(spec: &Spec) -> (&'static str, Option<&'static str>) {
    match spec.models.first() {
        Some(ModelKind::Vision) => ("whit classify --model DIR image.png", None),
        Some(ModelKind::Encoder) => ("whit embed --model DIR texts.txt", None),
        _ => ("whit generate --model DIR -p \"...\"", Some("whit bench text")),
    }
}

/// A value other than the default, to show how a knob is set.
fn another_value(knob: &Knob) -> Value {
    match (knob.kind, knob.default.clone()) {
        (Kind::Int { min, max }, _) => Value::Int(min.midpoint(max)),
        (Kind::Float { min, max }, _) => Value::Float(min.midpoint(max)),
        (Kind::Ratio, _) => Value::Float(0.5),
        (Kind::Flag, default) => Value::Flag(default != Value::Flag(true)),
        (Kind::Text { .. }, _) => Value::Text("TEXT".into()),
        (kind @ Kind::Choice { .. }, default) => {
            kind.ends().into_iter().find(|value| *value != default).unwrap_or(default)
        }
    }
}

/// The README's table of methods: each with the first sentence of its summary.
pub fn table() -> String {
    let mut table = String::from("| method | family | the idea | result |\n|---|---|---|---|\n");
    for spec in METHODS {
        let idea = spec.summary.split_inclusive(". ").next().unwrap_or(spec.summary).trim();
        let link = format!("[{0}](docs/methods/{0}.md)", spec.id);
        line(&mut table, &[&link, spec.room.name(), idea, spec.fidelity.name()]);
    }
    table
}

/// Puts the table between its two marks in `readme`; `None` if the marks are not there.
pub fn splice(readme: &str) -> Option<String> {
    let (before, rest) = readme.split_once(TABLE_START)?;
    let (_, after) = rest.split_once(TABLE_END)?;
    Some(format!("{before}{TABLE_START}\n{}{TABLE_END}{after}", table()))
}

fn push(page: &mut String, part: &str) {
    page.push_str(part.trim_end());
    page.push_str("\n\n");
}

fn line(table: &mut String, cells: &[&str]) {
    let cells: Vec<_> = cells.iter().map(|cell| cell.replace('|', "\\|")).collect();
    table.push_str(&format!("| {} |\n", cells.join(" | ")));
}

fn knob_table(spec: &Spec) -> String {
    if spec.knobs.is_empty() {
        return "It has none.".into();
    }
    let mut table =
        String::from("| knob | takes | default | off at | what it does |\n|---|---|---|---|---|\n");
    for knob in spec.knobs {
        let off = knob.off.as_ref().map(ToString::to_string).unwrap_or_default();
        let (name, kind) = (format!("`{}`", knob.name), knob.kind.to_string());
        line(&mut table, &[&name, &kind, &knob.default.to_string(), &off, knob.help]);
    }
    table
}

fn headline_table(spec: &Spec) -> String {
    let mut table = String::from(
        "The authors' figures, on their machines and models; not measured here.\n\n\
         | setting | metric | baseline | method |\n|---|---|---|---|\n",
    );
    for headline in spec.headlines {
        line(&mut table, &[headline.setting, headline.metric, headline.baseline, headline.result]);
    }
    table
}

fn touches(spec: &Spec) -> String {
    let mut text = String::new();
    for claim in spec.claims {
        let _ = writeln!(text, "- {claim} ({})", claim.access.help());
    }
    for stage in spec.stages {
        let _ = writeln!(text, "- stage {stage}: {}", stage.help());
    }
    for need in spec.needs {
        let _ = writeln!(text, "- needs {need}");
    }
    let models = spec.models.iter().map(|model| model.name()).collect::<Vec<_>>().join(", ");
    let _ = writeln!(text, "- works on: {models}");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_goes_between_the_marks_and_nothing_else_changes() {
        let readme = format!("before\n{TABLE_START}\nOLD TABLE\n{TABLE_END}\nafter\n");
        let spliced = splice(&readme).unwrap();
        assert!(spliced.starts_with("before\n") && spliced.ends_with("\nafter\n"));
        assert!(spliced.contains("token-recycling") && !spliced.contains("OLD TABLE"));
        assert_eq!(splice(&spliced).as_deref(), Some(spliced.as_str()));
        assert_eq!(splice("no marks"), None);
    }

    #[test]
    fn cells_cannot_break_a_table() {
        let mut table = String::new();
        line(&mut table, &["a|b", "c"]);
        assert_eq!(table, "| a\\|b | c |\n");
    }
}
