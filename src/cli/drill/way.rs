//! The road that mails take, with a barrier on it: closed, no mail server can be reached; open, the user's own can.
//!
//! For SMTP it is a port of this machine that nobody listens on, and later one that passes everything on to the configured
//! server (TLS goes through untouched, with the server's own certificate). For a folder it is a name that is a file, and
//! later a link to the configured folder.

use crate::config::{Mail, Transport};
use std::io::{Read, Write};
use std::net::{Ipv4Addr, Shutdown, TcpListener, TcpStream};
use std::path::{Path, PathBuf};

/// A closed road.
pub enum Way {
    /// To a mail server.
    Port {
        /// Where the mailer knocks.
        port: u16,
        /// Where the server really is.
        server: (String, u16),
    },
    /// To a folder.
    Folder {
        /// Where the mailer writes to.
        name: PathBuf,
        /// Where mails really go.
        folder: PathBuf,
    },
}

impl Way {
    /// Puts a barrier on the way of `mail`; `None` where there is nothing to close.
    pub fn close(mail: &mut Mail, scratch: &Path) -> std::io::Result<Option<Way>> {
        match mail.transport {
            Transport::Smtp => {
                let server = mail.address();
                let port = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port(); // and closed again
                mail.via = Some(format!("127.0.0.1:{port}"));
                Ok(Some(Way::Port { port, server }))
            }
            Transport::Folder => {
                let (name, folder) = (scratch.join("blocked-mail"), mail.folder.clone());
                std::fs::write(&name, "the drill's barrier: no folder can be made here\n")?;
                mail.folder.clone_from(&name);
                Ok(Some(Way::Folder { name, folder }))
            }
            Transport::Sendmail | Transport::None => Ok(None),
        }
    }

    /// Takes the barrier away.
    pub fn open(&self) -> std::io::Result<()> {
        match self {
            Way::Port { port, server } => {
                let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, *port))?;
                let server = server.clone();
                std::thread::spawn(move || {
                    for mailer in listener.incoming().flatten() {
                        let host = server.0.trim_start_matches('[').trim_end_matches(']');
                        if let Ok(server) = TcpStream::connect((host, server.1)) {
                            join(&mailer, &server);
                        }
                    }
                });
                Ok(())
            }
            Way::Folder { name, folder } => {
                std::fs::create_dir_all(folder)?;
                std::fs::remove_file(name)?;
                std::os::unix::fs::symlink(folder, name)
            }
        }
    }
}

/// Bytes both ways, until either side is done. Threads end with their connections, and all of them with the drill.
fn join(one: &TcpStream, other: &TcpStream) {
    for (from, to) in [(one, other), (other, one)] {
        let (Ok(mut from), Ok(mut to)) = (from.try_clone(), to.try_clone()) else { return };
        std::thread::spawn(move || {
            let mut buffer = [0; 16 * 1024];
            while let Ok(read @ 1..) = from.read(&mut buffer) {
                if to.write_all(&buffer[..read]).is_err() {
                    break;
                }
            }
            let _ = to.shutdown(Shutdown::Write); // closed already is as good
        });
    }
}
