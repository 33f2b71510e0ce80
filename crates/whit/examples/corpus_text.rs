//! Writes text of the corpus that `whit train rust-lm` learns from, `learn.txt`, and of the crates that it never sees,
//! `held-out.txt`: no file and no crate is in both. Arguments: FOLDER BYTES (of each, whole documents; default 300000).

use std::error::Error;
use std::path::Path;

use whit::world::corpus::{Corpus, Document, Limits};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let folder = Path::new(arguments.first().ok_or("give the folder to write to")?);
    let bytes = arguments.get(1).map_or(Ok(300_000), |text| text.parse())?;
    let corpus = Corpus::of_dependencies(&std::env::current_dir()?, Limits::default())?;
    std::fs::create_dir_all(folder)?;
    for (name, documents) in [("learn.txt", &corpus.train), ("held-out.txt", &corpus.held_out)] {
        let text = start(documents, bytes);
        println!("{name}: {} bytes", text.len());
        std::fs::write(folder.join(name), text)?;
    }
    Ok(())
}

/// The first documents, as many as fill `bytes`. Their order mixes the crates.
fn start(documents: &[Document], bytes: usize) -> String {
    let mut text = String::new();
    for document in documents {
        if text.len() >= bytes {
            break;
        }
        text.push_str(&document.text);
        text.push('\n');
    }
    text
}
