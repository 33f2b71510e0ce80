//! `whit methods`: all methods at a glance.

use serde_json::{Value, json};
use whit::methods::{METHODS, Spec, clash};

use crate::context::Context;
use crate::error::AppError;
use crate::output;

/// List the methods: what they do, what they cost in fidelity; -v adds the idea of each
#[derive(Debug, clap::Args)]
pub struct Arguments {}

pub fn run(_: Arguments, context: &Context) -> Result<(), AppError> {
    context
        .emit(&METHODS.iter().map(|spec| describe(spec)).collect::<Vec<_>>(), || overview(context.verbosity))
}

fn overview(verbosity: u8) -> String {
    let head = ["method", "family", "fidelity", "knobs", "works on", "paper"];
    let rows = METHODS.iter().map(|spec| {
        let knobs = spec.knobs.iter().map(|knob| knob.name).collect::<Vec<_>>().join(" ");
        let paper = format!("{}, {}", spec.paper.year, spec.paper.source());
        let models = names(spec.models.iter().map(|model| model.name()));
        vec![spec.id.into(), spec.room.to_string(), spec.fidelity.to_string(), knobs, models, paper]
    });
    let table = output::table(&head, rows);
    let idea = |spec: &&Spec| format!("\n\n{}\n{}", spec.id, output::wrap(spec.summary, 4));
    let ideas: String = METHODS.iter().filter(|_| verbosity > 0).map(idea).collect();
    format!(
        "{table}{ideas}\n\nSwitch one on with --with ID or --with ID:KNOB=VALUE,...; `whit explain ID` is its manual."
    )
}

/// A method for programs.
pub fn describe(spec: &Spec) -> Value {
    json!({
        "id": spec.id,
        "title": spec.title,
        "paper": spec.paper,
        "room": spec.room,
        "fidelity": spec.fidelity,
        "summary": spec.summary,
        "stages": spec.stages,
        "claims": spec.claims,
        "knobs": spec.knobs,
        "needs": spec.needs,
        "models": spec.models,
        "clashes": clashes(spec),
        "paper_reports": spec.headlines,
    })
}

/// The methods that cannot be stacked with this one.
pub fn clashes(spec: &Spec) -> Vec<&'static str> {
    let others = METHODS.iter().filter(|other| other.id != spec.id && clash(spec, other).is_some());
    others.map(|other| other.id).collect()
}

fn names<'a>(names: impl Iterator<Item = &'a str>) -> String {
    names.collect::<Vec<_>>().join(", ")
}
