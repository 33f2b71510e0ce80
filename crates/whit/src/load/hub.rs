//! Models by their name on the Hugging Face hub: from the local cache, or downloaded into it.
//!
//! The cache is the one that all Hugging Face tools share (`refs/`, `snapshots/`, `blobs/`), so what one of them
//! has fetched the others find.

use std::collections::BTreeSet;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::Duration;

use hf_hub::api::sync::{Api, ApiBuilder, ApiError, ApiRepo};
use hf_hub::{Cache, Repo, RepoType};
use serde_json::Value;

use super::Options;
use super::file::read_json;

const ENDPOINT: &str = "https://huggingface.co";
/// How often a broken transfer is taken up again.
const ATTEMPTS: u32 = 5;
const INDEX: &str = "model.safetensors.index.json";
/// The files of a model besides its weights.
const SMALL_FILES: [&str; 11] = [
    "config.json",
    "generation_config.json",
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "chat_template.jinja",
    "chat_template.json",
    "preprocessor_config.json",
    "modules.json",
    "sentence_bert_config.json",
    "config_sentence_transformers.json",
];

/// What sentence-transformers keeps in folders of its own.
const NESTED: [&str; 3] = ["1_Pooling/config.json", "2_Dense/config.json", "2_Dense/model.safetensors"];

/// Why a model could not be had from the hub.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs)]
pub enum HubError {
    #[error("{text:?} is no hub name; it must look like owner/name, of letters, digits, '-', '_' and '.'")]
    BadName { text: String },
    #[error("{revision:?} is no revision; it must be a branch, a tag or a commit")]
    BadRevision { revision: String },
    #[error("no folder for the hub's cache is known; set HF_HOME")]
    NoCache,
    #[error(
        "{name} is not in the local cache {cache} and the network may not be used (--offline); run once without it"
    )]
    Offline { name: String, cache: PathBuf },
    #[error("the hub at {endpoint} has no {what}; check the spelling")]
    NotFound { endpoint: String, what: String },
    #[error(
        "the hub refuses access to {name}; accept its licence on the website and set HF_TOKEN to your token"
    )]
    Denied { name: String },
    #[error(
        "downloading {file} of {name} failed: {reason}; what has arrived is kept, run the same command again"
    )]
    Download { name: String, file: String, reason: String },
    #[error("the hub's answer about {file} of {name} is not safe to follow: {reason}")]
    Unsafe { name: String, file: String, reason: String },
    #[error("{name} holds no weights that can be read (safetensors or one GGUF file); it has: {files}")]
    NoWeights { name: String, files: String },
    #[error("{name} changed on the hub during the download; run the same command again")]
    Changed { name: String },
}

/// The hub as seen from here.
#[derive(Debug, Clone)]
pub(crate) struct Hub {
    pub cache: PathBuf,
    pub endpoint: String,
    pub token: Option<String>,
    pub offline: bool,
    pub quiet: bool,
}

/// Whether a text looks like `owner/name` rather than like a path.
pub(super) fn is_name(text: &str) -> bool {
    let plain = |part: &str| {
        let letters = part.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c));
        !part.is_empty() && part.len() <= 96 && letters && !part.starts_with('.') && !part.contains("..")
    };
    text.split_once('/').is_some_and(|(owner, name)| plain(owner) && plain(name))
}

fn check_revision(revision: &str) -> Result<(), HubError> {
    let letters = revision.chars().all(|c| c.is_ascii_alphanumeric() || "-_./".contains(c));
    let parts = revision.split('/').all(|part| !part.is_empty() && !part.starts_with('.'));
    if letters && parts && revision.len() <= 200 {
        return Ok(());
    }
    Err(HubError::BadRevision { revision: revision.chars().take(80).collect() })
}

fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The shared cache: `HF_HUB_CACHE`, else `hub` below `HF_HOME`, else below `~/.cache/huggingface`.
fn cache_folder() -> Option<PathBuf> {
    if let Some(folder) = variable("HF_HUB_CACHE").or_else(|| variable("HUGGINGFACE_HUB_CACHE")) {
        return Some(folder.into());
    }
    let home = variable("HF_HOME").map(PathBuf::from).or_else(|| {
        let cache = variable("XDG_CACHE_HOME").map(PathBuf::from);
        let cache = cache.or_else(|| Some(std::env::home_dir()?.join(".cache")))?;
        Some(cache.join("huggingface"))
    })?;
    Some(home.join("hub"))
}

impl Hub {
    /// The hub that options and environment name.
    pub fn new(options: &Options) -> Result<Self, HubError> {
        let cache = cache_folder().ok_or(HubError::NoCache)?;
        let token = options.token.clone().or_else(|| variable("HF_TOKEN"));
        let token = token.or_else(|| Cache::new(cache.clone()).token());
        let forbidden =
            matches!(variable("HF_HUB_OFFLINE").as_deref(), Some("1" | "true" | "TRUE" | "yes" | "ON"));
        let endpoint = variable("HF_ENDPOINT").unwrap_or_else(|| ENDPOINT.to_owned());
        let endpoint = endpoint.trim_end_matches('/').to_owned();
        Ok(Self { cache, endpoint, token, offline: options.offline || forbidden, quiet: options.quiet })
    }

    /// The folder in the cache that holds a model's files, downloading what is not there.
    pub fn locate(&self, name: &str, revision: Option<&str>) -> Result<PathBuf, HubError> {
        if !is_name(name) {
            return Err(HubError::BadName { text: name.chars().take(200).collect() });
        }
        let revision = revision.unwrap_or("main");
        check_revision(revision)?;
        if let Some(folder) = self.cached(name, revision) {
            return Ok(folder);
        }
        if self.offline {
            return Err(HubError::Offline { name: name.to_owned(), cache: self.cache.clone() });
        }
        Download { hub: self, name, revision }.run()
    }

    /// A complete snapshot in the cache; the revision may be a branch, a tag or a commit.
    fn cached(&self, name: &str, revision: &str) -> Option<PathBuf> {
        let model = self.cache.join(format!("models--{}", name.replace('/', "--")));
        let commit = std::fs::read_to_string(model.join("refs").join(revision));
        let commit = commit.map_or(revision.to_owned(), |text| text.trim().to_owned());
        check_revision(&commit).ok()?;
        let folder = model.join("snapshots").join(commit);
        is_complete(&folder).then_some(folder)
    }
}

/// Whether a snapshot has all its weights: other tools may have fetched a part only.
fn is_complete(folder: &Path) -> bool {
    let has = |ending: &str| super::folder::files_ending(folder, ending).is_ok_and(|found| !found.is_empty());
    if has(".gguf") {
        return true;
    }
    if !folder.join("config.json").exists() {
        return false;
    }
    match shards(&folder.join(INDEX)) {
        Some(shards) => shards.iter().all(|shard| folder.join(shard).exists()),
        None => has(".safetensors"),
    }
}

/// The files that an index names; `None` if there is no readable index.
fn shards(index: &Path) -> Option<BTreeSet<String>> {
    let index: Value = read_json(index).ok()?;
    let files = index["weight_map"].as_object()?.values();
    Some(files.filter_map(Value::as_str).map(str::to_owned).collect())
}

/// Whether a file may be fetched: a plain name, or one of those in known folders.
fn is_wanted(name: &str) -> bool {
    is_plain(name) || NESTED.contains(&name)
}

struct Download<'a> {
    hub: &'a Hub,
    name: &'a str,
    revision: &'a str,
}

impl Download<'_> {
    fn run(&self) -> Result<PathBuf, HubError> {
        let repo = self.api()?.repo(Repo::with_revision(
            self.name.to_owned(),
            RepoType::Model,
            self.revision.to_owned(),
        ));
        let listed = self.list(&repo)?;
        let mut files: Vec<String> =
            SMALL_FILES.iter().filter(|file| listed.contains(**file)).map(|file| file.to_string()).collect();
        if listed.contains(INDEX) && !listed.contains("model.safetensors") {
            let index = self.fetch(&repo, INDEX)?;
            files.extend(shards(&index).unwrap_or_default());
        } else {
            files.push(self.single_weights(&listed)?);
        }
        let mut folders = BTreeSet::new();
        for file in files {
            let path = self.fetch(&repo, &file)?;
            folders.extend(path.parent().map(Path::to_owned));
        }
        for file in NESTED.iter().filter(|file| listed.contains(**file)) {
            self.fetch(&repo, file)?;
        }
        match folders.into_iter().collect::<Vec<_>>().as_slice() {
            [folder] => Ok(folder.clone()),
            _ => Err(HubError::Changed { name: self.name.to_owned() }),
        }
    }

    fn api(&self) -> Result<Api, HubError> {
        let builder = ApiBuilder::from_cache(Cache::new(self.hub.cache.clone()))
            .with_endpoint(self.hub.endpoint.clone())
            .with_token(self.hub.token.clone())
            .with_progress(!self.hub.quiet);
        builder.build().map_err(|e| self.error("the list of files", e))
    }

    /// The plain file names of the repository; of those in folders, only a few are of use here.
    fn list(&self, repo: &ApiRepo) -> Result<BTreeSet<String>, HubError> {
        let info = repo.info().map_err(|e| self.error("the list of files", e))?;
        Ok(info.siblings.into_iter().map(|s| s.rfilename).filter(|name| is_wanted(name)).collect())
    }

    fn single_weights(&self, listed: &BTreeSet<String>) -> Result<String, HubError> {
        if listed.contains("model.safetensors") {
            return Ok("model.safetensors".to_owned());
        }
        for ending in [".safetensors", ".gguf"] {
            let fits = |name: &&String| name.ends_with(ending) && is_plain(name);
            let found: Vec<_> = listed.iter().filter(fits).collect();
            if let [only] = found.as_slice() {
                return Ok(only.to_string());
            }
        }
        let files = listed.iter().take(20).cloned().collect::<Vec<_>>().join(", ");
        Err(HubError::NoWeights { name: self.name.to_owned(), files })
    }

    /// Downloads one file, taking a broken transfer up again where it stopped.
    fn fetch(&self, repo: &ApiRepo, file: &str) -> Result<PathBuf, HubError> {
        if !is_wanted(file) {
            return Err(self.not_safe(file, "the file name leads outside the folder".into()));
        }
        let mut attempt = 0;
        loop {
            attempt += 1;
            match self.attempt(repo, file) {
                Err(HubError::Download { .. }) if attempt < ATTEMPTS => {
                    std::thread::sleep(Duration::from_millis(100 << attempt));
                }
                result => return result,
            }
        }
    }

    fn attempt(&self, repo: &ApiRepo, file: &str) -> Result<PathBuf, HubError> {
        let metadata = self.api()?.metadata(&repo.url(file)).map_err(|e| self.error(file, e))?;
        for part in [metadata.etag(), metadata.commit_hash()] {
            if !is_plain(part) {
                return Err(self.not_safe(file, format!("it is identified as {part:?}")));
            }
        }
        let path = catch_unwind(AssertUnwindSafe(|| repo.download(file)));
        let path = path.map_err(|_| self.failed(file, "the answer contradicts itself".into()))?;
        let path = path.map_err(|e| self.error(file, e));
        if path.is_err() {
            self.discard_oversized(metadata.etag(), metadata.size());
        }
        let path = path?;
        let size = std::fs::metadata(&path).map_or(0, |m| m.len());
        if size == metadata.size() as u64 {
            return Ok(path);
        }
        // What lies there is not the file: it must not be found again.
        let blob = std::fs::canonicalize(&path).unwrap_or(path.clone());
        let _ = (std::fs::remove_file(&path), std::fs::remove_file(blob));
        Err(self.failed(file, format!("{size} bytes arrived instead of {}", metadata.size())))
    }

    /// A partial file larger than the whole can never be completed.
    fn discard_oversized(&self, etag: &str, size: usize) {
        let model = format!("models--{}", self.name.replace('/', "--"));
        let part = self.hub.cache.join(model).join("blobs").join(etag).with_extension("part");
        if std::fs::metadata(&part).is_ok_and(|m| m.len() > size as u64) {
            let _ = std::fs::remove_file(part);
        }
    }

    fn error(&self, file: &str, error: ApiError) -> HubError {
        // The library's client is not a dependency of its own here, so its status codes are read from the text.
        let reason = error.to_string();
        let status = |code: &str| reason.contains(&format!("status: {code}"));
        if status("404") {
            let what = format!("{} of {} at revision {}", file, self.name, self.revision);
            return HubError::NotFound { endpoint: self.hub.endpoint.clone(), what };
        }
        if status("401") || status("403") {
            return HubError::Denied { name: self.name.to_owned() };
        }
        self.failed(file, reason)
    }

    fn failed(&self, file: &str, reason: String) -> HubError {
        HubError::Download { name: self.name.to_owned(), file: file.to_owned(), reason }
    }

    fn not_safe(&self, file: &str, reason: String) -> HubError {
        HubError::Unsafe { name: self.name.to_owned(), file: file.to_owned(), reason }
    }
}

/// Whether a name stays in its folder.
fn is_plain(name: &str) -> bool {
    let letters = name.chars().all(|c| c.is_ascii_alphanumeric() || "-_.+ ".contains(c));
    !name.is_empty() && name.len() <= 200 && letters && !name.starts_with('.')
}

#[cfg(test)]
mod tests;
