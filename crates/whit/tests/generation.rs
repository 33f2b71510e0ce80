//! Greedy generation gives the tokens that transformers gives (`generation.json` of the fixtures), for prompts of
//! different lengths alone and together, with prompts read at once and in pieces.

use std::path::{Path, PathBuf};

use serde::Deserialize;
use whit::generate::{Request, Scheduler};
use whit::load;
use whit::methods::Stages;
use whit::models;
use whit::nn::decoder::Decoder;
use whit::nn::vars::{Precision, Storage};
use whit_kernels::linear::WeightType;

#[derive(Deserialize)]
struct Golden {
    prompts: Vec<Vec<u32>>,
    tokens: Vec<Vec<u32>>,
}

fn fixtures() -> Vec<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../tests/fixtures");
    let entries = std::fs::read_dir(root).unwrap().map(|entry| entry.unwrap().path());
    let mut found: Vec<_> = entries.filter(|path| path.join("generation.json").exists()).collect();
    found.sort();
    assert!(found.len() > 5, "the fixtures are missing");
    found
}

fn open(folder: &Path) -> (Decoder, Golden) {
    let files = load::open(folder.to_str().unwrap(), &load::Options::default()).unwrap();
    let storage = Storage::Packed(Precision::Fixed(WeightType::F32));
    let model = models::decoder(&files.config, files.weights.as_ref(), &storage, &|_| {}).unwrap();
    let golden = std::fs::read_to_string(folder.join("generation.json")).unwrap();
    (model, serde_json::from_str(&golden).unwrap())
}

/// The tokens that each prompt is continued with.
fn continued(scheduler: &mut Scheduler<'_>, prompts: &[Vec<u32>], count: usize) -> Vec<Vec<u32>> {
    let request =
        |prompt: &Vec<u32>| Request { prompt: prompt.clone(), max_tokens: count, ..Request::default() };
    let ids: Vec<usize> =
        prompts.iter().map(|prompt| scheduler.add(request(prompt), Stages::default()).unwrap()).collect();
    let mut tokens = vec![Vec::new(); prompts.len()];
    let place = |id| ids.iter().position(|known| *known == id).unwrap();
    scheduler.run(|_, event| tokens[place(event.id)].extend(&event.tokens)).unwrap();
    tokens
}

#[test]
fn prompts_together_get_transformers_tokens() {
    for folder in fixtures() {
        let (model, golden) = open(&folder);
        let tokens = continued(&mut Scheduler::new(&model), &golden.prompts, golden.tokens[0].len());
        assert_eq!(tokens, golden.tokens, "{}", folder.display());
    }
}

#[test]
fn a_prompt_alone_gets_the_same_tokens_as_in_company() {
    for folder in fixtures() {
        let (model, golden) = open(&folder);
        for (prompt, wanted) in golden.prompts.iter().zip(&golden.tokens) {
            let tokens = continued(&mut Scheduler::new(&model), std::slice::from_ref(prompt), wanted.len());
            assert_eq!(tokens, std::slice::from_ref(wanted), "{}", folder.display());
        }
    }
}

#[test]
fn a_prompt_read_in_pieces_gets_the_same_tokens() {
    for folder in fixtures() {
        let (model, golden) = open(&folder);
        let mut scheduler = Scheduler::new(&model).with_chunk(2);
        let tokens = continued(&mut scheduler, &golden.prompts, golden.tokens[0].len());
        assert_eq!(tokens, golden.tokens, "{}", folder.display());
    }
}
