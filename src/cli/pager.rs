//! Long answers in a terminal, a page at a time, by the pager that the user has chosen.

use std::io::{IsTerminal, Write};
use std::process::{Command, Stdio};

/// Options of `less` unless the user has set his own: leave when it fits on one screen, keep colours, cut long lines rather
/// than fold a table (the arrow keys go sideways), leave what was read on the screen.
const LESS: &str = "FRSX";

/// Writes `text` through the pager if standard output is a terminal. False: there is none, it is to be printed.
pub(super) fn show(text: &str) -> bool {
    let chosen = chosen(std::io::stdout().is_terminal(), std::env::var("PAGER").ok());
    let Some(pager) = chosen else { return false };
    // A shell, for the variable may hold options; `exec`, so that what the user ends is the pager.
    let mut command = Command::new("sh");
    command.args(["-c", &format!("command -v {} >/dev/null || exit 127; exec {pager}", program(&pager))]);
    if std::env::var_os("LESS").is_none() {
        command.env("LESS", LESS);
    }
    let Ok(mut child) = command.stdin(Stdio::piped()).spawn() else { return false };
    if let Some(mut stdin) = child.stdin.take() {
        let _ = stdin.write_all(text.as_bytes()); // the reader may leave before the end
    }
    !matches!(child.wait().map(|status| status.code()), Err(_) | Ok(Some(127)))
}

/// As others do it: an empty PAGER and `cat` are none, no PAGER is `less`.
fn chosen(is_terminal: bool, pager: Option<String>) -> Option<String> {
    let pager = pager.unwrap_or_else(|| "less".to_owned());
    (is_terminal && !matches!(pager.trim(), "" | "cat")).then_some(pager)
}

fn program(pager: &str) -> &str {
    pager.split_whitespace().next().unwrap_or(pager)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_is_never_paged_and_the_user_chooses() {
        let some = |text: &str| Some(text.to_owned());
        assert_eq!(chosen(false, None), None);
        assert_eq!(chosen(false, some("less")), None);
        assert_eq!(chosen(true, None), some("less"));
        assert_eq!(chosen(true, some("more -p")), some("more -p"));
        assert_eq!(chosen(true, some("")), None);
        assert_eq!(chosen(true, some("cat")), None);
        assert_eq!(program("more -p"), "more");
    }
}
