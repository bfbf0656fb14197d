//! The terminal that progress is drawn on. It may vanish (a closed window, a dropped ssh session) or stand still (Ctrl-S, a
//! laptop that sleeps) at any moment: what cannot be drawn then is lost, and whoever draws is neither stopped nor held up.

use indicatif::{MultiProgress, ProgressDrawTarget, TermLike};
use nix::libc;
use std::fs::File;
use std::io::{self, IsTerminal, Write};
use std::os::fd::{AsFd, AsRawFd};
use std::os::unix::fs::OpenOptionsExt;
use std::sync::{Arc, Mutex, PoisonError};

/// Rows and columns of the terminal that `of` is, if it is one that tells: neither is 0.
pub fn size(of: impl AsFd) -> Option<(u16, u16)> {
    let mut size = libc::winsize { ws_row: 0, ws_col: 0, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: TIOCGWINSZ fills the winsize that it is given, and fails on what is no terminal.
    let told = unsafe { libc::ioctl(of.as_fd().as_raw_fd(), libc::TIOCGWINSZ, &raw mut size) } == 0;
    (told && size.ws_row > 0 && size.ws_col > 0).then_some((size.ws_row, size.ws_col))
}

/// Lines that stay in place on stderr, and what is written past them.
#[derive(Clone)]
pub struct Lines {
    /// The lines.
    pub all: MultiProgress,
    terminal: Terminal,
}

impl Lines {
    /// None where stderr is no terminal, or one that cannot move its cursor.
    pub fn on_stderr() -> Option<Lines> {
        let moves = std::env::var("TERM").is_ok_and(|name| name != "dumb");
        let terminal = Terminal::open().filter(|_| moves)?;
        let target = ProgressDrawTarget::term_like_with_hz(Box::new(terminal.clone()), 20);
        Some(Lines { all: MultiProgress::with_draw_target(target), terminal })
    }

    /// Columns of the terminal now.
    pub fn columns(&self) -> usize {
        self.terminal.width().into()
    }

    /// Writes `bytes` above the lines.
    pub fn write_past(&self, bytes: &[u8]) {
        self.all.suspend(|| self.terminal.write(bytes));
    }
}

/// stderr, for one who never waits for it and never learns of an error: indicatif would panic.
#[derive(Debug, Clone)]
struct Terminal {
    to: Arc<File>,
    /// Written at the next flush.
    pending: Arc<Mutex<Vec<u8>>>,
}

impl Terminal {
    fn open() -> Option<Terminal> {
        let stderr = io::stderr();
        if !stderr.is_terminal() {
            return None;
        }
        // A description of our own: one that does not wait is not put upon all who share that of stderr. Where the terminal
        // is another user's (su), there is only that one.
        let own = File::options().write(true).custom_flags(libc::O_NONBLOCK | libc::O_NOCTTY).open("/proc/self/fd/2");
        let to = own.or_else(|_| stderr.as_fd().try_clone_to_owned().map(File::from)).ok()?;
        Some(Terminal { to: Arc::new(to), pending: Arc::default() })
    }

    fn write(&self, bytes: &[u8]) {
        let _ = (&*self.to).write_all(bytes); // nobody may be there to see it
    }

    fn put(&self, text: &str) {
        self.pending.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(text.as_bytes());
    }

    fn move_by(&self, n: usize, direction: char) {
        if n > 0 {
            self.put(&format!("\x1b[{n}{direction}"));
        }
    }
}

impl TermLike for Terminal {
    fn width(&self) -> u16 {
        size(&*self.to).map_or(80, |(_, columns)| columns)
    }

    fn height(&self) -> u16 {
        size(&*self.to).map_or(24, |(rows, _)| rows)
    }

    fn move_cursor_up(&self, n: usize) -> io::Result<()> {
        self.move_by(n, 'A');
        Ok(())
    }

    fn move_cursor_down(&self, n: usize) -> io::Result<()> {
        self.move_by(n, 'B');
        Ok(())
    }

    fn move_cursor_right(&self, n: usize) -> io::Result<()> {
        self.move_by(n, 'C');
        Ok(())
    }

    fn move_cursor_left(&self, n: usize) -> io::Result<()> {
        self.move_by(n, 'D');
        Ok(())
    }

    fn write_line(&self, text: &str) -> io::Result<()> {
        self.put(text);
        self.put("\n");
        Ok(())
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.put(text);
        Ok(())
    }

    fn clear_line(&self) -> io::Result<()> {
        self.put("\r\x1b[2K");
        Ok(())
    }

    fn flush(&self) -> io::Result<()> {
        let pending = std::mem::take(&mut *self.pending.lock().unwrap_or_else(PoisonError::into_inner));
        self.write(&pending);
        Ok(())
    }
}
