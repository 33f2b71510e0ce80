use super::*;
use crate::load::{RawTensor, safetensors};
use std::collections::BTreeMap;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

/// A hub with one repository, which may break off transfers half-way.
#[derive(Default)]
struct Site {
    files: BTreeMap<String, Vec<u8>>,
    /// How many transfers of more than one byte still break off in the middle.
    breaks: Mutex<u32>,
    /// Start of each range asked for, and the token sent along.
    requests: Mutex<Vec<(String, u64, Option<String>)>>,
    etag: Option<&'static str>,
    status: Option<&'static str>,
}

impl Site {
    /// Serves until the test ends; returns the address.
    fn serve(self) -> (String, Arc<Self>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = format!("http://{}", listener.local_addr().unwrap());
        let site = Arc::new(self);
        let shared = site.clone();
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = shared.answer(stream);
            }
        });
        (address, site)
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        let (mut path, mut start, mut end, mut token) = (String::new(), 0, None, None);
        for line in BufReader::new(stream.try_clone()?).lines() {
            let line = line?;
            if line.is_empty() {
                break;
            }
            if let Some(rest) = line.strip_prefix("GET ") {
                path = rest.split(' ').next().unwrap_or("").to_owned();
            }
            let (name, value) = line.split_once(": ").unwrap_or((&line, ""));
            match name.to_ascii_lowercase().as_str() {
                "range" => {
                    let (from, to) = value.trim_start_matches("bytes=").split_once('-').unwrap();
                    start = from.parse().unwrap();
                    end = to.parse::<u64>().ok();
                }
                "authorization" => token = Some(value.to_owned()),
                _ => {}
            }
        }
        self.requests.lock().unwrap().push((path.clone(), start, token));
        if let Some(status) = self.status {
            return write!(stream, "HTTP/1.1 {status}\r\nContent-Length: 0\r\nConnection: close\r\n\r\n");
        }
        if path == "/api/models/owner/name/revision/main" {
            let siblings: Vec<_> = self.files.keys().map(|f| serde_json::json!({"rfilename": f})).collect();
            let body = serde_json::json!({"sha": "abc", "siblings": siblings}).to_string();
            let length = body.len();
            return write!(
                stream,
                "HTTP/1.1 200 OK\r\nContent-Length: {length}\r\nConnection: close\r\n\r\n{body}"
            );
        }
        match path.strip_prefix("/owner/name/resolve/main/").and_then(|file| self.files.get(file)) {
            Some(body) => self.send(stream, &path, body, start as usize, end),
            None => {
                write!(stream, "HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            }
        }
    }

    fn send(
        &self,
        mut stream: TcpStream,
        path: &str,
        body: &[u8],
        start: usize,
        end: Option<u64>,
    ) -> std::io::Result<()> {
        let end = end.map_or(body.len(), |end| (end as usize + 1).min(body.len()));
        let part = &body[start.min(end)..end];
        let etag = self.etag.map_or_else(|| path.replace('/', "_"), str::to_owned);
        write!(
            stream,
            "HTTP/1.1 206 Partial Content\r\nContent-Length: {}\r\nContent-Range: bytes {start}-{}/{}\r\n\
             ETag: \"{etag}\"\r\nX-Repo-Commit: abc\r\nConnection: close\r\n\r\n",
            part.len(),
            end.max(1) - 1,
            body.len()
        )?;
        let mut breaks = self.breaks.lock().unwrap();
        if *breaks > 0 && part.len() > 1000 {
            *breaks -= 1;
            return stream.write_all(&part[..part.len() / 2]);
        }
        stream.write_all(part)
    }
}

fn site() -> Site {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("model.safetensors");
    let tensor = RawTensor::from_f32(vec![1000], &[1.5; 1000]);
    safetensors::save(&path, &[("a", &tensor)], &Default::default()).unwrap();
    let files = [
        ("config.json", br#"{"model_type": "llama"}"#.to_vec()),
        ("model.safetensors", std::fs::read(path).unwrap()),
        (".gitattributes", vec![1]),
        ("onnx/model.onnx", vec![1]),
        ("pytorch_model.bin", vec![1]),
    ];
    Site { files: files.map(|(name, bytes)| (name.to_owned(), bytes)).into(), ..Site::default() }
}

fn hub(folder: &tempfile::TempDir, endpoint: String) -> Hub {
    let cache = folder.path().join("hub");
    Hub { cache, endpoint, token: Some("secret".into()), offline: false, quiet: true }
}

#[test]
fn a_model_is_downloaded_once_then_found_offline() {
    let folder = tempfile::tempdir().unwrap();
    let (endpoint, site) = site().serve();
    let hub = hub(&folder, endpoint);
    let found = hub.locate("owner/name", None).unwrap();
    let origin = crate::load::Origin::Folder(found.clone());
    let files = crate::load::folder::open(&found, origin).unwrap();
    assert_eq!(files.weights.read_f32("a", &[1000]).unwrap(), [1.5; 1000]);
    let requests = site.requests.lock().unwrap().len();
    assert!(
        site.requests.lock().unwrap().iter().all(|(_, _, token)| token.as_deref() == Some("Bearer secret"))
    );
    assert!(!found.join("pytorch_model.bin").exists());

    let offline = Hub { offline: true, ..hub };
    assert_eq!(offline.locate("owner/name", None).unwrap(), found);
    assert_eq!(offline.locate("owner/name", Some("abc")).unwrap(), found);
    assert_eq!(site.requests.lock().unwrap().len(), requests);
    let message = offline.locate("owner/other", None).unwrap_err().to_string();
    assert!(message.contains("owner/other") && message.contains("--offline"), "{message}");
}

#[test]
fn a_broken_transfer_goes_on_where_it_stopped() {
    let folder = tempfile::tempdir().unwrap();
    let site = Site { breaks: Mutex::new(2), ..site() };
    let whole = site.files["model.safetensors"].clone();
    let (endpoint, site) = site.serve();
    let found = hub(&folder, endpoint).locate("owner/name", None).unwrap();
    assert_eq!(std::fs::read(found.join("model.safetensors")).unwrap(), whole);
    let starts: Vec<_> = site
        .requests
        .lock()
        .unwrap()
        .iter()
        .filter(|(path, ..)| path.ends_with("model.safetensors"))
        .map(|r| r.1)
        .collect();
    let half = whole.len() as u64 / 2;
    assert!(starts.contains(&half) && starts.iter().max() > Some(&half), "{starts:?}");
}

#[test]
fn what_has_arrived_is_kept_for_the_next_run() {
    let folder = tempfile::tempdir().unwrap();
    let whole = site().files["model.safetensors"].clone();
    let (endpoint, _) = Site { breaks: Mutex::new(u32::MAX), ..site() }.serve();
    let broken = Hub { ..hub(&folder, endpoint) };
    // Every transfer breaks until less than a kilobyte is missing.
    let first = broken.locate("owner/name", None);
    assert!(matches!(first, Ok(_) | Err(HubError::Download { .. })));
    let (endpoint, _) = site().serve();
    let found = hub(&folder, endpoint).locate("owner/name", None).unwrap();
    assert_eq!(std::fs::read(found.join("model.safetensors")).unwrap(), whole);
}

#[test]
fn every_shard_of_an_index_is_fetched() {
    let folder = tempfile::tempdir().unwrap();
    let mut sharded = site();
    let weights = sharded.files.remove("model.safetensors").unwrap();
    sharded.files.insert("model-00001-of-00001.safetensors".into(), weights);
    let index = serde_json::json!({"weight_map": {"a": "model-00001-of-00001.safetensors"}});
    sharded.files.insert(INDEX.into(), index.to_string().into_bytes());
    let (endpoint, _) = sharded.serve();
    let found = hub(&folder, endpoint).locate("owner/name", None).unwrap();
    assert!(is_complete(&found));
    std::fs::remove_file(found.join("model-00001-of-00001.safetensors")).unwrap();
    assert!(!is_complete(&found));
}

#[test]
fn refusals_say_what_to_do() {
    let folder = tempfile::tempdir().unwrap();
    let fault = |site: Site, name: &str| {
        let (endpoint, _) = site.serve();
        hub(&folder, endpoint).locate(name, None).unwrap_err()
    };
    assert!(matches!(fault(site(), "owner/absent"), HubError::NotFound { .. }));
    let denied = Site { status: Some("401 Unauthorized"), ..site() };
    assert!(fault(denied, "owner/name").to_string().contains("HF_TOKEN"));
    let outside = Site { etag: Some("../../../outside"), ..site() };
    assert!(matches!(fault(outside, "owner/name"), HubError::Unsafe { .. }));
    let mut bare = site();
    bare.files.remove("model.safetensors");
    assert!(matches!(fault(bare, "owner/name"), HubError::NoWeights { .. }));
    let mut escaping = site();
    escaping.files.remove("model.safetensors");
    escaping.files.insert(INDEX.into(), br#"{"weight_map": {"a": "../secret"}}"#.to_vec());
    assert!(matches!(fault(escaping, "owner/name"), HubError::Unsafe { .. }));
}

#[test]
fn names_and_revisions_cannot_leave_the_cache() {
    assert!(is_name("meta-llama/Llama-3.2-1B"));
    for text in ["name", "a/b/c", "../x", "x/..", "/x", "x/", "./model", "a b/c", ""] {
        assert!(!is_name(text), "{text}");
    }
    let folder = tempfile::tempdir().unwrap();
    let hub = hub(&folder, "http://127.0.0.1:1".into());
    assert!(matches!(hub.locate("a", None), Err(HubError::BadName { .. })));
    for revision in ["../x", "", "a//b", "x/../y", "/etc"] {
        assert!(matches!(hub.locate("a/b", Some(revision)), Err(HubError::BadRevision { .. })), "{revision}");
    }
}
