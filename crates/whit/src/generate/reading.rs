//! Where attention meets the policy that chooses which keys are read.

use whit_kernels::attention::{Attended, Call, HeadView, Wanted, attend};

use super::trace::Trace;
use crate::methods::{AttnPolicy, Looking, Reading};

/// The attention of `call`, whose views hold all rows, over those that `policy` chooses; it is shown the
/// scores if it asks for them. Where only some rows are read, nothing besides the output is returned. Who
/// watches is told what is read of the rows at `positions`.
pub fn read(
    policy: &mut dyn AttnPolicy,
    looking: &Looking,
    call: Call<'_>,
    watcher: Option<(&mut Trace, &[u32])>,
) -> Attended {
    let reading = policy.read(looking);
    if let Some((trace, positions)) = watcher {
        trace.read(looking, &reading, positions);
    }
    match reading {
        Reading::All => attend(&call),
        Reading::AllScored => {
            let attended = attend(&Call { wanted: Wanted { scores: 1, ..call.wanted }, ..call });
            policy.scored(looking, &attended.scores);
            attended
        }
        Reading::Rows(lists) => {
            let kv = listed(call.kv, lists);
            attend(&Call { kv: &kv, wanted: Wanted::default(), ..call })
        }
    }
}

/// One view for each list.
fn listed<'a>(heads: &[HeadView<'a>], lists: &'a [Option<Vec<u32>>]) -> Vec<HeadView<'a>> {
    let view = |(index, list): (usize, &'a Option<Vec<u32>>)| {
        let view = heads[index * heads.len() / lists.len()];
        match list {
            Some(rows) => HeadView { len: rows.len(), rows: Some(rows), ..view },
            None => view,
        }
    };
    lists.iter().enumerate().map(view).collect()
}
