//! The client against a server in the same process.

use std::io::{BufRead, BufReader};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::thread;

use super::*;

const CONTENT: &[u8] = b"0123456789abcdefghij";
const MD5: &str = "644be06dfc54061fd1e67f5ebbabcd58";

/// Answers each request by the next of its answers, then stops; remembers the `Range` headers.
struct Server {
    base: String,
    ranges: Arc<Mutex<Vec<Option<String>>>>,
}

impl Server {
    fn start(answers: Vec<Vec<u8>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let base = format!("http://{}/files/", listener.local_addr().unwrap());
        let ranges: Arc<Mutex<Vec<Option<String>>>> = Arc::default();
        let seen = Arc::clone(&ranges);
        thread::spawn(move || {
            for answer in answers {
                let (mut stream, _) = listener.accept().unwrap();
                let range = range_of(&stream);
                seen.lock().unwrap().push(range);
                stream.write_all(&answer).unwrap();
            }
        });
        Self { base, ranges }
    }

    fn ranges(&self) -> Vec<Option<String>> {
        self.ranges.lock().unwrap().clone()
    }
}

/// Reads a request to its end.
fn range_of(stream: &TcpStream) -> Option<String> {
    let lines = BufReader::new(stream).lines().map(Result::unwrap).take_while(|line| !line.is_empty());
    lines.filter_map(|line| line.to_lowercase().strip_prefix("range: ").map(str::to_owned)).last()
}

fn answer(status: &str, headers: &str, declared: usize, body: &[u8]) -> Vec<u8> {
    let head =
        format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {declared}\r\n{headers}\r\n");
    [head.as_bytes(), body].concat()
}

fn whole() -> Vec<u8> {
    answer("200 OK", "", CONTENT.len(), CONTENT)
}

fn rest(from: usize) -> Vec<u8> {
    let range = format!("Content-Range: bytes {from}-19/20\r\n");
    answer("206 Partial Content", &range, 20 - from, &CONTENT[from..])
}

fn remote() -> RemoteFile {
    RemoteFile { name: "numbers.bin", size: 20, md5: MD5 }
}

/// The server is on this machine: no proxy can reach it.
fn agent() -> Agent {
    patience().proxy(None).build().into()
}

/// Fetches the file and returns the outcome with what lies in the folder afterwards: the file and its part.
fn run(server: &Server, folder: &Path) -> (Result<()>, [Option<Vec<u8>>; 2]) {
    let mut last = 0;
    let outcome = fetch_all(&agent(), &[remote()], &server.base, folder, &mut |done, total| {
        assert_eq!(total, Some(20));
        last = done;
    });
    if outcome.is_ok() {
        assert_eq!(last, 20);
    }
    (outcome, ["numbers.bin", "numbers.bin.part"].map(|name| fs::read(folder.join(name)).ok()))
}

#[test]
fn a_file_is_fetched_once() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(vec![whole()]);
    for _ in 0..2 {
        let (outcome, files) = run(&server, folder.path());
        outcome.unwrap();
        assert_eq!(files, [Some(CONTENT.to_vec()), None]);
    }
    assert_eq!(server.ranges(), [None]);
}

#[test]
fn a_cut_transfer_goes_on_where_it_ended() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(vec![answer("200 OK", "", 20, &CONTENT[..7]), rest(7)]);
    let (outcome, files) = run(&server, folder.path());
    assert!(matches!(outcome, Err(Error::Transfer { done: 7, .. })), "{outcome:?}");
    assert_eq!(files, [None, Some(CONTENT[..7].to_vec())]);
    let (outcome, files) = run(&server, folder.path());
    outcome.unwrap();
    assert_eq!(files, [Some(CONTENT.to_vec()), None]);
    assert_eq!(server.ranges(), [None, Some("bytes=7-".into())]);
}

#[test]
fn a_short_but_well_formed_answer_is_not_the_end() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(vec![answer("200 OK", "", 5, &CONTENT[..5]), rest(5)]);
    assert!(matches!(run(&server, folder.path()).0, Err(Error::Transfer { done: 5, .. })));
    run(&server, folder.path()).0.unwrap();
}

#[test]
fn a_server_without_ranges_sends_everything_again() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("numbers.bin.part"), "stale").unwrap();
    let server = Server::start(vec![whole()]);
    let (outcome, files) = run(&server, folder.path());
    outcome.unwrap();
    assert_eq!(files, [Some(CONTENT.to_vec()), None]);
    assert_eq!(server.ranges(), [Some("bytes=5-".into())]);
}

#[test]
fn a_complete_part_needs_no_server() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("numbers.bin.part"), CONTENT).unwrap();
    let server = Server::start(vec![]);
    run(&server, folder.path()).0.unwrap();
}

#[test]
fn wrong_content_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let server = Server::start(vec![answer("200 OK", "", 20, &[b'?'; 20]), whole()]);
    let (outcome, files) = run(&server, folder.path());
    assert!(matches!(&outcome, Err(Error::Checksum { expected, .. }) if expected == MD5));
    assert!(outcome.unwrap_err().to_string().contains("was removed"));
    assert_eq!(files, [None, None]);
    run(&server, folder.path()).0.unwrap();
}

#[test]
fn a_wrong_file_of_that_name_is_replaced() {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("numbers.bin"), "something else").unwrap();
    let server = Server::start(vec![whole()]);
    assert_eq!(run(&server, folder.path()).1, [Some(CONTENT.to_vec()), None]);
}

#[test]
fn other_statuses_are_errors_and_keep_what_is_there() {
    for status in ["404 Not Found", "500 Internal Server Error", "204 No Content"] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("numbers.bin.part"), &CONTENT[..3]).unwrap();
        let server = Server::start(vec![answer(status, "", 0, b"")]);
        let (outcome, files) = run(&server, folder.path());
        assert!(
            matches!(outcome, Err(Error::Status { status: found, .. }) if status.starts_with(&found.to_string()))
        );
        assert_eq!(files, [None, Some(CONTENT[..3].to_vec())]);
    }
}

#[test]
fn a_range_from_elsewhere_is_refused_and_forgotten() {
    for status in ["206 Partial Content", "416 Range Not Satisfiable"] {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("numbers.bin.part"), &CONTENT[..3]).unwrap();
        let wrong = answer(status, "Content-Range: bytes 30-33/40\r\n", 3, b"abc");
        let server = Server::start(vec![wrong, whole()]);
        assert!(matches!(run(&server, folder.path()).0, Err(Error::Status { .. })));
        run(&server, folder.path()).0.unwrap();
        assert_eq!(server.ranges(), [Some("bytes=3-".into()), None]);
    }
}

#[test]
fn more_than_the_file_is_refused() {
    let endless = [b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n".as_slice(), &[b'x'; 100_000]].concat();
    for too_much in [answer("200 OK", "", 1 << 40, b"xxx"), answer("200 OK", "", 21, &[b'x'; 21]), endless] {
        let folder = tempfile::tempdir().unwrap();
        let server = Server::start(vec![too_much]);
        let (outcome, files) = run(&server, folder.path());
        assert!(matches!(outcome, Err(Error::Oversized { limit: 20, .. })), "{outcome:?}");
        assert_eq!(files, [None, Some(Vec::new())]);
    }
}

#[test]
fn two_downloads_of_one_file_do_not_mix() {
    let folder = tempfile::tempdir().unwrap();
    let _first = Part::open(folder.path().join("numbers.bin.part"), 20).unwrap();
    assert!(matches!(run(&Server::start(vec![]), folder.path()).0, Err(Error::Busy { .. })));
}

#[test]
fn a_server_that_is_not_there_is_a_transfer_error() {
    let folder = tempfile::tempdir().unwrap();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let base = format!("http://127.0.0.1:{port}");
    let outcome = fetch_all(&agent(), &[remote()], &base, folder.path(), &mut |_, _| {});
    assert!(matches!(outcome, Err(Error::Transfer { done: 0, .. })), "{outcome:?}");
}

#[test]
fn the_digits_need_no_server() {
    let folder = tempfile::tempdir().unwrap();
    assert!(matches!(
        download(DatasetName::Digits, folder.path(), &mut |_, _| {}),
        Err(Error::NothingToDownload { name: DatasetName::Digits })
    ));
}
