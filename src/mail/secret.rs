//! The SMTP password: from a file that only its owner reads, or from a systemd credential. It is read anew for every
//! connection, so that it can be changed under a run, and it never reaches a log.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

/// Longest password taken; a larger file is some other file.
const SECRET_BYTES_MAX: u64 = 4_096;

/// Where the password is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Secret {
    /// A file of one's own: refused if others can read it.
    File(PathBuf),
    /// A file under `$CREDENTIALS_DIRECTORY`: systemd keeps others out, by means that its mode bits do not show.
    Credential(PathBuf),
}

/// Why there is no password.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// It is not there, or not ours to read.
    #[error("cannot read the SMTP password from {path}: {source}")]
    Unreadable {
        /// Which file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// Others can read it.
    #[error("the SMTP password file {path} is open to others (mode {mode:04o}): chmod 600 {path}")]
    Open {
        /// Which file.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// Someone else owns it, and could open it to others.
    #[error(
        "the SMTP password file {path} belongs to user {owner}, not to the one soakd runs as ({user}): chown {user} {path}"
    )]
    Owner {
        /// Which file.
        path: PathBuf,
        /// Its owner.
        owner: u32,
        /// Who we are.
        user: u32,
    },
    /// Empty, binary or huge.
    #[error("the SMTP password file {path} {what}")]
    Odd {
        /// Which file.
        path: PathBuf,
        /// What is odd about it.
        what: &'static str,
    },
}

impl Secret {
    /// Its path.
    #[must_use]
    pub fn path(&self) -> &Path {
        match self {
            Secret::File(path) | Secret::Credential(path) => path,
        }
    }

    /// Reads the password: the file's text without the newline at its end.
    pub fn read(&self) -> Result<String, SecretError> {
        use std::io::Read as _;
        let path = self.path().to_path_buf();
        let unreadable = |source| SecretError::Unreadable { path: path.clone(), source };
        let odd = |what| SecretError::Odd { path: path.clone(), what };
        let file = std::fs::File::open(&path).map_err(unreadable)?;
        let meta = file.metadata().map_err(unreadable)?; // of the open file: no race with a rename
        if matches!(self, Secret::File(_)) {
            check_mode(&path, &meta)?;
        }
        if !meta.is_file() {
            return Err(odd("is not a file"));
        }
        let mut text = String::new();
        file.take(SECRET_BYTES_MAX + 1).read_to_string(&mut text).map_err(unreadable)?;
        let secret = text.trim_end_matches(['\r', '\n']);
        match secret {
            "" => Err(odd("is empty")),
            s if s.len() as u64 > SECRET_BYTES_MAX => Err(odd("is longer than any password (4096 bytes)")),
            s if s.chars().any(char::is_control) => {
                Err(odd("holds more than one line: only the password belongs there"))
            }
            s => Ok(s.to_owned()),
        }
    }
}

fn check_mode(path: &Path, meta: &std::fs::Metadata) -> Result<(), SecretError> {
    let (mode, user) = (meta.mode() & 0o7777, nix::unistd::geteuid().as_raw());
    if mode & 0o077 != 0 {
        return Err(SecretError::Open { path: path.to_path_buf(), mode });
    }
    if meta.uid() != user && user != 0 {
        return Err(SecretError::Owner { path: path.to_path_buf(), owner: meta.uid(), user });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::Secret;
    use std::os::unix::fs::PermissionsExt as _;

    fn with(content: &[u8], mode: u32) -> Result<String, String> {
        let dir = tempfile::tempdir().expect("a temporary folder");
        let path = dir.path().join("password");
        std::fs::write(&path, content).expect("written");
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(mode)).expect("chmod");
        Secret::File(path).read().map_err(|e| e.to_string())
    }

    #[test]
    fn only_a_file_of_ones_own_will_do() {
        assert_eq!(with(b"s3cret\n", 0o600).as_deref(), Ok("s3cret"));
        assert_eq!(with(b"with space ", 0o400).as_deref(), Ok("with space "));
        for mode in [0o644, 0o640, 0o604, 0o660] {
            let error = with(b"s3cret", mode).expect_err("open to others");
            assert!(error.contains("chmod 600 /") && !error.contains("s3cret"), "{error}");
        }
    }

    #[test]
    fn what_is_no_password_is_named() {
        for (content, says) in [
            (&b""[..], "is empty"),
            (b"\n", "is empty"),
            (b"user\npassword\n", "more than one line"),
            (&[b'x'; 5_000], "longer than any password"),
        ] {
            let error = with(content, 0o600).expect_err(says);
            assert!(error.contains(says), "{error}");
        }
        let missing = Secret::File("/nonexistent/password".into()).read().expect_err("missing").to_string();
        assert!(missing.contains("/nonexistent/password"), "{missing}");
    }
}
