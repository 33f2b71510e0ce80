//! `whit explain`: the manual page of a method.

use whit::methods::{Spec, find, page};

use super::methods::clashes;
use crate::context::Context;
use crate::error::AppError;
use crate::output;

/// Explain a method: the idea, when it pays, its knobs, what it stacks with, what its paper reports
#[derive(Debug, clap::Args)]
pub struct Arguments {
    /// The method, as `whit methods` names it
    #[arg(value_name = "METHOD")]
    id: String,
}

pub fn run(arguments: Arguments, context: &Context) -> Result<(), AppError> {
    let spec = find(&arguments.id)?;
    context.emit(&super::methods::describe(spec), || manual(spec))
}

fn manual(spec: &Spec) -> String {
    let sections = [
        ("NAME", format!("{} - {}", spec.id, spec.title)),
        ("IDEA", spec.summary.to_owned()),
        ("FIDELITY", format!("{}: {}", spec.fidelity, spec.fidelity.help())),
        ("KNOBS", knobs(spec)),
        ("STACKING", stacking(spec)),
        ("NEEDS", needs(spec)),
        ("EXAMPLES", page::examples(spec).join("\n")),
        ("PAPER", paper(spec)),
        ("THE PAPER REPORTS (its machines and models; nothing of this was measured here)", headlines(spec)),
    ];
    let mut parts: Vec<_> = sections.iter().map(|(title, body)| section(title, body)).collect();
    parts.splice(3..3, long(spec));
    parts.join("\n\n")
}

/// The prose of the SPEC: each of its headings becomes a section.
fn long(spec: &Spec) -> Vec<String> {
    let parts = spec.long.split("## ").filter(|part| !part.trim().is_empty());
    parts
        .map(|part| match part.split_once('\n') {
            Some((title, body)) => section(&title.to_uppercase(), &output::joined(body.trim())),
            None => section("NOTES", &output::joined(part)),
        })
        .collect()
}

fn section(title: &str, body: &str) -> String {
    let lines = output::wrap(body, 4);
    format!("{title}\n{lines}")
}

fn knobs(spec: &Spec) -> String {
    let rows = spec.knobs.iter().map(|knob| {
        let off = knob.off.as_ref().map(|off| format!("; {off} switches the method off")).unwrap_or_default();
        format!("{} = {} ({})\n    {}{off}", knob.name, knob.default, knob.kind, knob.help)
    });
    rows.collect::<Vec<_>>().join("\n")
}

fn stacking(spec: &Spec) -> String {
    let mut lines: Vec<_> =
        spec.claims.iter().map(|claim| format!("{claim} ({})", claim.access.help())).collect();
    lines.extend(spec.stages.iter().map(|stage| format!("runs at {stage}: {}", stage.help())));
    lines.push(match clashes(spec).as_slice() {
        [] => "It can be stacked with every other method.".into(),
        clashes => format!("It cannot be stacked with {}.", clashes.join(", ")),
    });
    lines.push("Repeat --with to stack methods; --dry-run prints the plan and runs nothing.".into());
    lines.join("\n")
}

fn needs(spec: &Spec) -> String {
    let models = spec.models.iter().map(|model| format!("{model}: {}", model.help()));
    let needs = spec.needs.iter().map(ToString::to_string);
    let mut lines: Vec<_> = models.chain(needs).collect();
    if spec.needs.is_empty() {
        lines.push("Nothing else: no training, no calibration, no second model.".into());
    }
    lines.join("\n")
}

fn paper(spec: &Spec) -> String {
    let paper = &spec.paper;
    format!("{}\n{}\n{}, {}", paper.title, paper.authors, paper.year, paper.url())
}

fn headlines(spec: &Spec) -> String {
    let lines = spec.headlines.iter().map(|line| {
        format!("{}\n    {}: {}, with the method {}", line.setting, line.metric, line.baseline, line.result)
    });
    lines.collect::<Vec<_>>().join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use whit::methods::METHODS;

    #[test]
    fn every_manual_says_everything_and_fits_the_page() {
        for spec in METHODS {
            let manual = manual(spec);
            for knob in spec.knobs {
                assert!(manual.contains(knob.name), "{}: {}", spec.id, knob.name);
            }
            assert!(manual.contains(&spec.paper.url()) && manual.contains("--with"));
            let long = manual.lines().find(|line| line.chars().count() > 90 && !line.contains("http"));
            assert_eq!(long, None, "{}", spec.id);
        }
    }
}
