//! From wanted methods and a model to a plan that says who runs where, or a refusal that says why not.

use std::fmt;
use std::sync::Arc;

use serde_json::json;

use super::{
    Access, Claim, Fidelity, Knobs, Method, MethodError, ModelFacts, Resource, Selection, Spec, Stages,
};

/// Methods that fit each other and the model, built and ready to begin sequences.
#[derive(Clone, Debug)]
pub struct Plan {
    model: ModelFacts,
    parts: Vec<Part>,
    off: Vec<&'static Spec>,
}

/// One method of a plan.
#[derive(Clone, Debug)]
pub struct Part {
    /// The method with its knobs.
    pub knobs: Knobs,
    /// The method, built for the model.
    pub method: Arc<dyn Method>,
}

impl Part {
    /// The description of the method.
    pub fn spec(&self) -> &'static Spec {
        self.knobs.spec()
    }
}

impl Plan {
    /// Checks the wanted methods against each other and against the model, and builds them. A method
    /// with a knob at its off value is left out.
    ///
    /// # Errors
    /// If two methods own the same resource, one does not work on this kind of model, or its knobs
    /// do not fit the model.
    pub fn new(wanted: &Selection, model: &ModelFacts) -> Result<Self, MethodError> {
        let (off, on): (Vec<_>, Vec<_>) = wanted.chosen().iter().partition(|knobs| knobs.is_off());
        let specs: Vec<_> = on.iter().map(|knobs| knobs.spec()).collect();
        check_clashes(&specs)?;
        let parts = on.into_iter().map(|knobs| build(knobs, model)).collect::<Result<_, _>>()?;
        Ok(Self { model: model.clone(), parts, off: off.into_iter().map(Knobs::spec).collect() })
    }

    /// The methods that are on, in the order they were given.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Whether nothing is on: the plan is the baseline.
    pub fn is_plain(&self) -> bool {
        self.parts.is_empty()
    }

    /// How far the result may be from the baseline's: as far as its least faithful method allows.
    pub fn fidelity(&self) -> Fidelity {
        self.parts.iter().map(|part| part.spec().fidelity).max().unwrap_or(Fidelity::Exact)
    }

    /// Whether some method touches `resource`.
    pub fn touches(&self, resource: Resource) -> bool {
        self.parts.iter().any(|part| part.spec().claims.iter().any(|claim| claim.resource == resource))
    }

    /// Refuses methods that work on the weights, for a run that takes the weights as they are.
    ///
    /// # Errors
    /// [`MethodError::Offline`], naming the first of them.
    pub fn live(self) -> Result<Self, MethodError> {
        match self.parts.iter().find(|part| part.spec().is_offline()) {
            Some(part) => Err(MethodError::Offline { method: part.spec().id }),
            None => Ok(self),
        }
    }

    /// Refuses methods that work on a running model, for a run that changes the weights.
    ///
    /// # Errors
    /// [`MethodError::Live`], naming the first of them.
    pub fn offline(self) -> Result<Self, MethodError> {
        match self.parts.iter().find(|part| !part.spec().is_offline()) {
            Some(part) => Err(MethodError::Live { method: part.spec().id }),
            None => Ok(self),
        }
    }

    /// The state of one sequence: the stages of all methods, in order.
    pub fn begin(&self) -> Stages {
        let mut stages = Stages::default();
        for part in &self.parts {
            stages.append(part.method.begin());
        }
        stages
    }

    /// The plan for programs.
    pub fn to_json(&self) -> serde_json::Value {
        let part = |part: &Part| {
            json!({
                "id": part.spec().id,
                "knobs": part.knobs,
                "stages": part.spec().stages,
                "claims": part.spec().claims,
                "fidelity": part.spec().fidelity,
                "expect": part.method.expect(),
            })
        };
        json!({
            "model": self.model,
            "methods": self.parts.iter().map(part).collect::<Vec<_>>(),
            "off": self.off.iter().map(|spec| spec.id).collect::<Vec<_>>(),
            "fidelity": self.fidelity(),
        })
    }
}

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let model = &self.model;
        writeln!(f, "plan for {}: {} layers, width {}", model.architecture, model.layers, model.width)?;
        for part in &self.parts {
            write_part(f, part)?;
        }
        for spec in &self.off {
            writeln!(f, "  {}: off, a knob is at its off value", spec.id)?;
        }
        if self.is_plain() {
            writeln!(f, "  no methods: the baseline")?;
        }
        write!(f, "fidelity: {}. {}", self.fidelity(), self.fidelity().help())
    }
}

fn write_part(f: &mut fmt::Formatter<'_>, part: &Part) -> fmt::Result {
    let spec = part.spec();
    writeln!(f, "  {} ({})", spec.id, spec.fidelity)?;
    writeln!(f, "    knobs    {}", part.knobs)?;
    for stage in spec.stages {
        writeln!(f, "    stage    {:<12} {}", stage.name(), stage.help())?;
    }
    writeln!(f, "    claims   {}", list(spec.claims))?;
    writeln!(f, "    expect   {}", part.method.expect())
}

fn list(items: &[impl fmt::Display]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn build(knobs: &Knobs, model: &ModelFacts) -> Result<Part, MethodError> {
    let spec = knobs.spec();
    if !spec.models.contains(&model.kind) {
        let works_on = list(spec.models);
        return Err(MethodError::WrongModel { method: spec.id, kind: model.kind, works_on });
    }
    Ok(Part { knobs: knobs.clone(), method: (spec.build)(knobs, model)? })
}

/// The only rule of stacking: no resource has two owners.
fn check_clashes(specs: &[&'static Spec]) -> Result<(), MethodError> {
    for (index, second) in specs.iter().enumerate() {
        for first in &specs[..index] {
            if let Some(resource) = clash(first, second) {
                return Err(MethodError::Clash { first: first.id, second: second.id, resource });
            }
        }
    }
    Ok(())
}

/// The resource that both methods own, if there is one.
pub fn clash(first: &Spec, second: &Spec) -> Option<Resource> {
    let owned = |claim: &&Claim| claim.access == Access::Own;
    let mut resources = first.claims.iter().filter(owned).map(|claim| claim.resource);
    resources.find(|&resource| second.claims.contains(&Claim { resource, access: Access::Own }))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::{Knob, METHODS, ModelKind, Paper, Room, Value};

    const fn claim(resource: Resource, access: Access) -> Claim {
        Claim { resource, access }
    }

    const fn spec(id: &'static str, claims: &'static [Claim], knobs: &'static [Knob]) -> Spec {
        Spec {
            id,
            title: id,
            paper: Paper { title: "", authors: "", year: 2024, arxiv: "" },
            room: Room::Cache,
            fidelity: Fidelity::Lossy,
            summary: "",
            long: "",
            stages: &[],
            claims,
            knobs,
            needs: &[],
            models: &[ModelKind::Decoder],
            headlines: &[],
            build: |_, _| Ok(Arc::new(Nothing)),
        }
    }

    #[derive(Debug)]
    struct Nothing;

    impl Method for Nothing {
        fn begin(&self) -> Stages {
            Stages::default()
        }

        fn expect(&self) -> String {
            "nothing".into()
        }
    }

    static EVICT: Spec = spec("evict", &[claim(Resource::KvRows, Access::Own)], &[]);
    static MERGE: Spec = spec(
        "merge",
        &[claim(Resource::ScoreSums, Access::Read), claim(Resource::KvRows, Access::Own)],
        &[Knob {
            name: "budget",
            kind: crate::methods::Kind::Int { min: 0, max: 9 },
            default: Value::Int(1),
            off: Some(Value::Int(0)),
            help: "",
        }],
    );
    static WATCH: Spec = spec("watch", &[claim(Resource::KvRows, Access::Read)], &[]);

    fn plan(specs: &[&'static Spec]) -> Result<Plan, MethodError> {
        let mut selection = Selection::default();
        for spec in specs {
            selection.push(Knobs::defaults(spec)).unwrap();
        }
        Plan::new(&selection, &ModelFacts::example())
    }

    #[test]
    fn two_owners_clash_and_are_both_named() {
        let refusal = plan(&[&EVICT, &WATCH, &MERGE]).unwrap_err();
        let resource = Resource::KvRows;
        assert_eq!(refusal, MethodError::Clash { first: "evict", second: "merge", resource });
        assert!(plan(&[&EVICT, &WATCH]).is_ok());
    }

    #[test]
    fn a_method_that_is_off_is_in_nobodys_way() {
        let mut merge = Knobs::defaults(&MERGE);
        merge.set("budget", Value::Int(0)).unwrap();
        let mut selection = Selection::default();
        selection.push(merge).unwrap();
        selection.push(Knobs::defaults(&EVICT)).unwrap();
        let plan = Plan::new(&selection, &ModelFacts::example()).unwrap();
        assert_eq!(plan.parts().len(), 1);
        assert!(plan.to_string().contains("merge: off"));
        assert_eq!(plan.to_json()["off"], json!(["merge"]));
    }

    #[test]
    fn the_plan_says_who_runs_where() {
        let plan = plan(&[METHODS[0]]).unwrap();
        let text = plan.to_string();
        for part in ["token-recycling", "tree=", "owns draft", "fidelity: exact"] {
            assert!(text.contains(part), "{part} is missing in\n{text}");
        }
        assert!(plan.touches(Resource::Draft) && !plan.touches(Resource::Weights));
        assert_eq!(plan.to_json()["methods"][0]["id"], "token-recycling");
    }

    #[test]
    fn the_wrong_kind_of_model_is_refused() {
        let model = ModelFacts { kind: ModelKind::UNet, ..ModelFacts::example() };
        let wanted = Selection::parse(&["token-recycling"]).unwrap();
        let refusal = Plan::new(&wanted, &model).unwrap_err().to_string();
        assert!(refusal.contains("token-recycling") && refusal.contains("u-net"), "{refusal}");
    }
}
