//! A stand-in for an inference server, for tests and for trying `soakd run -- COMMAND`: speaks enough of the OpenAI API to
//! be driven, answers the same to the same prompt, and leaks as many bytes a request as it is told to.
//!
//! `leaky_server PORT [--leak BYTES] [--cache BYTES] [--worker] [FAULT] [--after N]`: `--cache` bounds what it keeps;
//! `--worker` serves in a child process, as real servers do. The fault sets in after N requests: `--empty` no token, `--html` a
//! proxy's page, `--html-models` that page where its models are asked for, `--stall` silence in mid-stream, `--drip` comments
//! and never a token, `--gigabyte` one line that long, `--endless` tokens for ever, `--whim` another answer to the same prompt,
//! `--busy` status 503, `--die` an abort.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::Mutex;
use std::time::Duration;

/// What is never given back.
static KEPT: Mutex<Vec<Vec<u8>>> = Mutex::new(Vec::new());

const FAULTS: [&str; 10] =
    ["--empty", "--html", "--html-models", "--stall", "--drip", "--gigabyte", "--endless", "--whim", "--busy", "--die"];

#[derive(Debug, Clone, Default)]
struct Manners {
    leak_bytes: usize,
    cache_bytes: Option<usize>,
    fault: Option<String>,
    after: usize,
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let Some(port) = args.first().and_then(|p| p.parse::<u16>().ok()) else {
        eprintln!(
            "usage: leaky_server PORT [--leak BYTES] [--cache BYTES] [--worker] [{}] [--after N]",
            FAULTS.join("|")
        );
        std::process::exit(2);
    };
    let number = |flag: &str| args.iter().position(|a| a == flag).and_then(|i| args.get(i + 1)?.parse::<usize>().ok());
    if args.iter().any(|a| a == "--worker") {
        let rest = args.iter().filter(|a| *a != "--worker");
        let program = std::env::current_exe().expect("our own path");
        let mut child = std::process::Command::new(program).args(rest).spawn().expect("a worker");
        let status = child.wait().expect("the worker's end");
        std::process::exit(status.code().unwrap_or(1));
    }
    let fault = FAULTS.into_iter().find(|f| args.iter().any(|a| a == f));
    let manners = Manners {
        leak_bytes: number("--leak").unwrap_or(0),
        cache_bytes: number("--cache"),
        fault: fault.map(str::to_owned),
        after: number("--after").unwrap_or(0),
    };
    let listener = TcpListener::bind(("127.0.0.1", port)).expect("the port is free");
    eprintln!("leaky_server listens on {port}");
    let served = std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0));
    for stream in listener.incoming().flatten() {
        let (manners, served) = (manners.clone(), std::sync::Arc::clone(&served));
        std::thread::spawn(move || {
            let _ = serve(stream, &manners, &served); // a client that goes away is its own affair
        });
    }
}

fn serve(mut stream: TcpStream, manners: &Manners, served: &std::sync::atomic::AtomicUsize) -> std::io::Result<()> {
    stream.set_nodelay(true)?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let (mut line, mut length) = (String::new(), 0usize);
    reader.read_line(&mut line)?;
    let path = line.split(' ').nth(1).unwrap_or("").to_owned();
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header == "\r\n" {
            break;
        }
        if let Some(value) = header.to_ascii_lowercase().strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
    }
    let mut body = vec![0u8; length.min(1 << 20)];
    reader.read_exact(&mut body)?;
    if path.ends_with("/models") && manners.fault.as_deref() == Some("--html-models") {
        return reply(&mut stream, "200 OK", "text/html", "<html>a proxy's front page</html>");
    }
    if path.ends_with("/models") {
        return reply(&mut stream, "200 OK", "application/json", "{\"data\":[{\"id\":\"stand-in\"}]}");
    }
    let number = served.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
    let fault = manners.fault.as_deref().filter(|_| number >= manners.after);
    match fault {
        Some("--html") => return reply(&mut stream, "200 OK", "text/html", "<html>a proxy's error page</html>"),
        Some("--busy") => {
            return reply(&mut stream, "503 Service Unavailable", "application/json", "{\"error\":\"too busy\"}");
        }
        Some("--die") => std::process::abort(),
        _ => {}
    }
    keep(manners);
    stream.write_all(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n")?;
    let asked = String::from_utf8_lossy(&body).into_owned();
    let tokens = asked.split("\"max_tokens\":").nth(1).map_or(8, |rest| {
        rest.chars().take_while(char::is_ascii_digit).collect::<String>().parse::<usize>().unwrap_or(8)
    });
    let seed: u32 = asked.bytes().fold(7, |h, b| h.wrapping_mul(31).wrapping_add(u32::from(b)));
    match fault {
        Some("--drip") => loop {
            chunk(&mut stream, ": wait\n\n")?;
            std::thread::sleep(Duration::from_millis(300));
        },
        Some("--gigabyte") => {
            let mebibyte = "x".repeat(1 << 20);
            for _ in 0..1_024 {
                chunk(&mut stream, &mebibyte)?;
            }
        }
        Some("--endless") => loop {
            chunk(&mut stream, "data: {\"choices\":[{\"text\":\" more\"}]}\n\n")?;
        },
        _ => {}
    }
    if fault != Some("--empty") {
        for i in 0..tokens.min(64) {
            let whim = if fault == Some("--whim") { number as u32 } else { 0 };
            let token = seed.wrapping_add(whim + i as u32 * 7_919) % 1_000;
            chunk(&mut stream, &format!("data: {{\"choices\":[{{\"text\":\" w{token}\"}}]}}\n\n"))?;
            if fault == Some("--stall") && i == 2 {
                std::thread::sleep(Duration::from_secs(3_600));
            }
        }
    }
    chunk(&mut stream, "data: [DONE]\n\n")?;
    stream.write_all(b"0\r\n\r\n")
}

fn keep(manners: &Manners) {
    if manners.leak_bytes == 0 {
        return;
    }
    let mut kept = KEPT.lock().expect("no panic holds it");
    let held: usize = kept.len() * manners.leak_bytes;
    if manners.cache_bytes.is_none_or(|most| held + manners.leak_bytes <= most) {
        kept.push(vec![1u8; manners.leak_bytes]); // ones, so that every page is touched
    }
}

fn chunk(stream: &mut TcpStream, text: &str) -> std::io::Result<()> {
    stream.write_all(format!("{:x}\r\n{text}\r\n", text.len()).as_bytes())
}

fn reply(stream: &mut TcpStream, status: &str, kind: &str, text: &str) -> std::io::Result<()> {
    let head = format!("HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {}\r\n\r\n", text.len());
    stream.write_all(format!("{head}{text}").as_bytes())
}
