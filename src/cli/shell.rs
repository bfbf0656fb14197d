//! Commands of ours that people are told to paste into a shell.

use std::path::Path;

/// `soakd mail` with `flags`, on the configuration and the database of whoever says it: with others, the mails might go elsewhere.
pub fn mail(flags: &str, config: Option<&Path>, database: Option<&Path>) -> String {
    let mut command = format!("soakd mail {flags}");
    for (flag, path) in [("--config", config), ("--db", database)] {
        if let Some(path) = path {
            command += &format!(" {flag} {}", word(&path.to_string_lossy()));
        }
    }
    command
}

/// One word to a shell, in quotes where it needs them.
fn word(text: &str) -> String {
    let is_plain = |c: char| c.is_alphanumeric() || "_-./:=@%+,".contains(c);
    if !text.is_empty() && text.chars().all(is_plain) {
        return text.to_owned();
    }
    format!("'{}'", text.replace('\'', r"'\''"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_to_paste_survives_the_shell() {
        let said = mail("--once", Some(Path::new("my prod's.toml")), Some(Path::new("/var/lib/soakd/soak.db")));
        assert_eq!(said, r"soakd mail --once --config 'my prod'\''s.toml' --db /var/lib/soakd/soak.db");
        let echo =
            std::process::Command::new("sh").arg("-c").arg(format!("printf '%s|' {said}")).output().expect("a shell");
        let words = "soakd|mail|--once|--config|my prod's.toml|--db|/var/lib/soakd/soak.db|";
        assert_eq!(String::from_utf8_lossy(&echo.stdout), words);
    }
}
