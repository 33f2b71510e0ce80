//! The schedules that DiffRate's authors learnt on ImageNet (`compression_rate.json` of their repository), by the model
//! and its cost in G operations. A count that grows does nothing in their code; here it is that of the block before.

use std::collections::BTreeMap;

use serde::Deserialize;

use super::rates::Rates;

#[derive(Deserialize)]
struct Counts {
    prune: Vec<usize>,
    merge: Vec<usize>,
}

fn all() -> BTreeMap<String, Counts> {
    serde_json::from_str(include_str!("published.json")).unwrap_or_default()
}

/// The names of all of them: `deit-s-2.9` is that of DeiT-S for 2.9 G operations.
pub fn names() -> Vec<String> {
    all().into_keys().collect()
}

/// The schedule of this name.
pub fn published(name: &str) -> Option<Rates> {
    let Counts { prune, merge } = all().remove(name)?;
    Some(Rates::new(prune[0], 1, prune, merge))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_schedule_is_one_and_begins_with_all_tokens() {
        let names = names();
        assert_eq!(names.len(), 28);
        for name in names {
            let rates = published(&name).unwrap();
            let layers = match &name[..5] {
                "mae-l" => 24,
                "mae-h" => 32,
                _ => 12,
            };
            rates.check(layers).unwrap();
            assert_eq!(rates.tokens, if layers == 32 { 257 } else { 197 });
        }
        assert!(published("deit-s-9").is_none());
    }
}
