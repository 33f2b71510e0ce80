//! The list of all methods. Listing one is one word here; its file lies in the folder of its room.

use super::Spec;

/// Makes the `mod` lines and [`METHODS`] from one word a method.
macro_rules! methods {
    ($($(#[$meta:meta])* $room:ident { $($method:ident)* })*) => {
        $($(#[$meta])* pub mod $room { $(pub mod $method;)* })*

        /// All methods, in the order of the list.
        pub static METHODS: &[&Spec] = &[$($(&$room::$method::SPEC),*),*];

        /// The files that the list stands for, as `room/method`.
        #[cfg(test)]
        const FILES: &[&str] = &[$($(concat!(stringify!($room), "/", stringify!($method))),*),*];
    };
}

methods! {
    /// Several tokens proposed cheaply and verified in one forward pass.
    drafts { token_recycling prompt_lookup draft_model chimera typical_acceptance }
    /// Keys and values kept, merged or skipped.
    cache { tidaldecode streaming_llm h2o snapkv adakv tova key_norm cam ems spec_kv }
    /// Layers that a token does not go through.
    depth { early_exit }
    /// Prompts cut, tokens merged or dropped.
    tokens { llmlingua2 spec_pc tome token_transforming evit top_k_prune random_drop diffrate }
    /// Smaller weights: rounded, pruned, factorised, by `whit shrink`.
    weights { rtn gptq awq smoothquant magnitude wanda sparsegpt structured low_rank blockffn crate_whitebox }
    /// What the model attends to and knows.
    insight { tempscale }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::methods::Room;
    use std::path::Path;

    #[test]
    fn every_file_is_listed() {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/methods");
        let mut found = Vec::new();
        for room in Room::ALL {
            let Ok(files) = folder.join(room.name()).read_dir() else { continue };
            for file in files {
                let path = file.unwrap().path();
                found.push(format!("{room}/{}", path.file_stem().unwrap().to_string_lossy()));
            }
        }
        let mut listed = FILES.to_vec();
        listed.sort_unstable();
        found.sort_unstable();
        assert_eq!(listed, found);
    }

    #[test]
    fn a_method_lies_in_the_folder_of_its_room_under_its_name() {
        for (file, spec) in FILES.iter().zip(METHODS) {
            assert_eq!(*file, format!("{}/{}", spec.room, spec.id.replace('-', "_")));
        }
    }
}
