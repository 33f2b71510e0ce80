//! Text to learn from: Rust source and documentation of the locked dependencies, or a user's folder.
//!
//! `Cargo.lock` pins every crate by checksum, so it pins the corpus too: the same lock file gives
//! the same documents in the same order on every machine. Whole crates are held out, by a hash of
//! their name, so that the held-out text shares no file and no author's crate with the training text.

use std::collections::{BTreeMap, HashSet};
use std::path::{Path, PathBuf};

use super::screen::{is_binding, is_handwritten, is_wanted_path, tidy};
use super::stable_hash;

/// How much text is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// The largest file that is read, in bytes.
    pub file: usize,
    /// The most that one crate gives, in bytes, so that no crate sets the tone.
    pub source: usize,
    /// The most in all, in bytes.
    pub total: usize,
    /// How many of a hundred sources are held out.
    pub held_out: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self { file: 200_000, source: 400_000, total: 64_000_000, held_out: 4 }
    }
}

/// One text, and where it is from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Document {
    /// The crate with its version, or the file's path.
    pub source: String,
    /// The whole text.
    pub text: String,
}

/// The documents to learn from and those to be measured on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Corpus {
    /// Documents to learn from, in a fixed mixed order.
    pub train: Vec<Document>,
    /// Documents of other sources, never learnt from.
    pub held_out: Vec<Document>,
}

/// Why a corpus could not be read.
#[derive(Debug, thiserror::Error)]
pub enum CorpusError {
    /// No lock file.
    #[error("no Cargo.lock in {0} or above it; run from the project's folder, or give a folder with --data")]
    NoLock(PathBuf),
    /// A locked crate whose source is not on this machine.
    #[error("the source of {0} is not in {1}; run `cargo fetch` once, then try again")]
    NotFetched(String, PathBuf),
    /// A file or folder that cannot be read.
    #[error("cannot read {path}: {reason}")]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        reason: std::io::Error,
    },
    /// Nothing usable was found.
    #[error("no text was found in {0}: it needs .txt, .md, .rs, .json or .jsonl files of plain text")]
    Empty(PathBuf),
}

impl Corpus {
    /// Reads the source of the registry crates that the `Cargo.lock` in `folder`, or the nearest
    /// folder above it, pins.
    ///
    /// # Errors
    /// If there is no lock file, or cargo has not fetched a crate that it names.
    pub fn of_dependencies(folder: &Path, limits: Limits) -> Result<Self, CorpusError> {
        let lock = folder.ancestors().map(|above| above.join("Cargo.lock")).find(|path| path.is_file());
        let lock = lock.ok_or_else(|| CorpusError::NoLock(folder.to_path_buf()))?;
        let crates = locked_crates(&read(&lock)?);
        let roots = registry_roots()?;
        let mut found = Vec::new();
        for (name, version) in crates.iter().filter(|(name, _)| !is_binding(name)) {
            let label = format!("{name}-{version}");
            let source = roots.iter().map(|root| root.join(&label)).find(|path| path.is_dir());
            let source = source.ok_or_else(|| CorpusError::NotFetched(label.clone(), cargo_home()))?;
            let files = files_below(&source)?.into_iter().filter(|(path, _)| is_wanted_path(path));
            found.extend(files.map(|(path, file)| Candidate {
                group: name.clone(),
                label: label.clone(),
                path,
                file,
            }));
        }
        Self::choose(found, limits, &lock)
    }

    /// Reads the text, Markdown, Rust, JSON and JSON-lines files below `folder`. Of JSON lines, the
    /// field `text` of each line is one document.
    ///
    /// # Errors
    /// If the folder cannot be read or holds no text.
    pub fn of_folder(folder: &Path, limits: Limits) -> Result<Self, CorpusError> {
        let files = files_below(folder)?.into_iter().map(|(path, file)| Candidate {
            group: path.clone(),
            label: path.clone(),
            path,
            file,
        });
        let known =
            |path: &str| [".txt", ".md", ".rs", ".json", ".jsonl"].iter().any(|end| path.ends_with(end));
        let limits = Limits { source: limits.total, file: limits.total, ..limits };
        Self::choose(files.filter(|file| known(&file.path)).collect(), limits, folder)
    }

    /// The number of bytes of text: to learn from, and held out.
    pub fn bytes(&self) -> (usize, usize) {
        let count = |documents: &[Document]| documents.iter().map(|document| document.text.len()).sum();
        (count(&self.train), count(&self.held_out))
    }

    /// A number that changes when any document, its order or its side of the split does.
    pub fn fingerprint(&self) -> u64 {
        let hashes =
            self.train.iter().chain(&self.held_out).map(|document| stable_hash(document.text.as_bytes()));
        let bytes: Vec<u8> = hashes.chain([self.train.len() as u64]).flat_map(u64::to_le_bytes).collect();
        stable_hash(&bytes)
    }

    /// Takes candidates in the order of their hashes until the limits are reached.
    fn choose(mut candidates: Vec<Candidate>, limits: Limits, from: &Path) -> Result<Self, CorpusError> {
        candidates.sort_by_cached_key(|file| (file.rank(), file.label.clone(), file.path.clone()));
        let mut chosen = Self::default();
        let mut taken: BTreeMap<String, usize> = BTreeMap::new();
        let mut seen = HashSet::new();
        let mut total = 0;
        for candidate in candidates {
            let of_source = taken.entry(candidate.group.clone()).or_default();
            if *of_source >= limits.source || total >= limits.total {
                continue;
            }
            for document in candidate.documents(limits.file)? {
                if seen.insert(stable_hash(document.text.as_bytes())) {
                    *of_source += document.text.len();
                    total += document.text.len();
                    chosen.place(&candidate.group, document, limits);
                }
            }
        }
        chosen.never_without_held_out();
        if chosen.train.is_empty() { Err(CorpusError::Empty(from.to_path_buf())) } else { Ok(chosen) }
    }

    fn place(&mut self, group: &str, document: Document, limits: Limits) {
        let held_out = stable_hash(group.as_bytes()) % 100 < limits.held_out;
        if held_out { self.held_out.push(document) } else { self.train.push(document) }
    }

    /// A small folder may hash wholly to one side: then every twentieth document is held out.
    fn never_without_held_out(&mut self) {
        if !self.held_out.is_empty() && !self.train.is_empty() {
            return;
        }
        let mut all = std::mem::take(&mut self.train);
        all.append(&mut self.held_out);
        for (index, document) in all.into_iter().enumerate() {
            if index % 20 == 19 { self.held_out.push(document) } else { self.train.push(document) }
        }
    }
}

/// A file that may be taken.
struct Candidate {
    /// What the split and the limit for one source go by.
    group: String,
    label: String,
    path: String,
    file: PathBuf,
}

impl Candidate {
    fn rank(&self) -> u64 {
        stable_hash(format!("{}/{}", self.label, self.path).as_bytes())
    }

    /// The texts in the file; none where it is too large, not UTF-8, or not written by hand.
    fn documents(&self, largest: usize) -> Result<Vec<Document>, CorpusError> {
        let unreadable = |reason| CorpusError::Unreadable { path: self.file.clone(), reason };
        let size = std::fs::metadata(&self.file).map_err(unreadable)?.len();
        if size > largest as u64 {
            return Ok(Vec::new());
        }
        let bytes = std::fs::read(&self.file).map_err(unreadable)?;
        let Ok(text) = String::from_utf8(bytes) else { return Ok(Vec::new()) };
        let texts = if self.path.ends_with(".jsonl") { json_lines(&text) } else { vec![tidy(&text)] };
        let code = self.path.ends_with(".rs");
        let usable = |text: &String| text.len() >= 64 && (!code || is_handwritten(text));
        Ok(texts
            .into_iter()
            .filter(usable)
            .map(|text| Document { source: self.label.clone(), text })
            .collect())
    }
}

fn json_lines(text: &str) -> Vec<String> {
    let field = |line: &str| {
        let value: serde_json::Value = serde_json::from_str(line).ok()?;
        Some(value.get("text")?.as_str()?.to_owned())
    };
    text.lines().filter_map(field).collect()
}

/// Names and versions of the packages of a lock file that come from a registry, in its order.
fn locked_crates(lock: &str) -> Vec<(String, String)> {
    let field = |package: &str, key: &str| {
        let line = package.lines().find_map(|line| line.strip_prefix(key)?.trim().strip_prefix('='))?;
        Some(line.trim().trim_matches('"').to_owned())
    };
    let package = |text: &str| {
        field(text, "source").filter(|source| source.starts_with("registry+"))?;
        Some((field(text, "name")?, field(text, "version")?))
    };
    lock.split("[[package]]").filter_map(package).collect()
}

fn cargo_home() -> PathBuf {
    let given = std::env::var_os("CARGO_HOME").map(PathBuf::from);
    given.or_else(|| std::env::home_dir().map(|home| home.join(".cargo"))).unwrap_or_default()
}

/// The folders in which cargo unpacks crates, one for each registry.
fn registry_roots() -> Result<Vec<PathBuf>, CorpusError> {
    let folder = cargo_home().join("registry").join("src");
    Ok(entries(&folder)?.into_iter().filter(|path| path.is_dir()).collect())
}

/// The regular files below `folder`, with their paths relative to it (with `/`), sorted.
fn files_below(folder: &Path) -> Result<Vec<(String, PathBuf)>, CorpusError> {
    let mut waiting = vec![folder.to_path_buf()];
    let mut files = Vec::new();
    while let Some(path) = waiting.pop() {
        let kind = std::fs::symlink_metadata(&path);
        let kind = kind.map_err(|reason| CorpusError::Unreadable { path: path.clone(), reason })?;
        if kind.is_dir() {
            waiting.extend(entries(&path)?);
        } else if kind.is_file() {
            files.push((relative(&path, folder), path));
        }
    }
    files.sort();
    Ok(files)
}

fn relative(path: &Path, folder: &Path) -> String {
    let parts = path.strip_prefix(folder).unwrap_or(path).components();
    parts.map(|part| part.as_os_str().to_string_lossy()).collect::<Vec<_>>().join("/")
}

fn entries(folder: &Path) -> Result<Vec<PathBuf>, CorpusError> {
    let unreadable = |reason| CorpusError::Unreadable { path: folder.to_path_buf(), reason };
    let listed: Result<Vec<_>, _> = std::fs::read_dir(folder).map_err(unreadable)?.collect();
    let mut paths: Vec<_> = listed.map_err(unreadable)?.into_iter().map(|entry| entry.path()).collect();
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<String, CorpusError> {
    std::fs::read_to_string(path)
        .map_err(|reason| CorpusError::Unreadable { path: path.to_path_buf(), reason })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn folder(files: &[(&str, &str)]) -> tempfile::TempDir {
        let folder = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = folder.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        }
        folder
    }

    #[test]
    fn a_lock_file_names_its_registry_crates() {
        let lock = "version = 4\n\n[[package]]\nname = \"own\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"serde\"\n\
                    version = \"1.0.2\"\nsource = \"registry+https://example.org\"\nchecksum = \"00\"\n";
        assert_eq!(locked_crates(lock), [("serde".to_owned(), "1.0.2".to_owned())]);
    }

    #[test]
    fn a_folder_gives_each_text_once_and_holds_some_out() {
        let line = |i: usize| {
            format!("document number {i} of a folder, long enough to be worth keeping, it is hoped\n")
        };
        let lines: String =
            (0..40).map(|i| serde_json::json!({ "text": line(i) }).to_string() + "\n").collect();
        let files =
            folder(&[("a.txt", &line(1)), ("b/c.md", &line(1)), ("d.jsonl", &lines), ("e.bin", "no")]);
        let corpus = Corpus::of_folder(files.path(), Limits::default()).unwrap();
        let all: HashSet<_> = corpus.train.iter().chain(&corpus.held_out).map(|d| d.text.clone()).collect();
        assert_eq!(all.len(), 40);
        assert_eq!(corpus.train.len() + corpus.held_out.len(), 40);
        assert!(!corpus.held_out.is_empty());
        assert_eq!(corpus, Corpus::of_folder(files.path(), Limits::default()).unwrap());
    }

    #[test]
    fn an_empty_or_missing_folder_is_refused() {
        let empty = tempfile::tempdir().unwrap();
        let error = Corpus::of_folder(empty.path(), Limits::default()).unwrap_err();
        assert!(matches!(error, CorpusError::Empty(_)), "{error}");
        let error = Corpus::of_folder(&empty.path().join("none"), Limits::default()).unwrap_err();
        assert!(matches!(error, CorpusError::Unreadable { .. }), "{error}");
        let error = Corpus::of_dependencies(empty.path(), Limits::default()).unwrap_err();
        assert!(matches!(error, CorpusError::NoLock(_)), "{error}");
    }

    #[test]
    fn the_dependencies_of_this_workspace_give_a_corpus() {
        let limits = Limits { total: 300_000, ..Limits::default() };
        let corpus = Corpus::of_dependencies(Path::new(env!("CARGO_MANIFEST_DIR")), limits).unwrap();
        let (train, held_out) = corpus.bytes();
        assert!(train + held_out >= 300_000 && train + held_out < 500_000 && held_out > 0);
        let crates =
            |documents: &[Document]| documents.iter().map(|d| d.source.clone()).collect::<HashSet<_>>();
        assert!(crates(&corpus.train).is_disjoint(&crates(&corpus.held_out)));
    }
}
