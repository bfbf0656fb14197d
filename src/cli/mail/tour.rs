//! The mailer's round: look at the heartbeat, send what is due, wait. It survives a database that is not there yet, is
//! locked, full or replaced, and a mail server that is down for days; it ends when it is told to.

use super::super::silence::iso;
use super::super::{CannotStart, Done, Format, Outcome};
use super::desk::Desk;
use super::disk::Disk;
use super::watch::Watch;
use super::{say, setup};
use crate::clock;
use crate::config::Config;
use crate::mail::{AnyCarrier, Courier, Round, Routes};
use crate::model::time::{Now, UnixMillis};
use crate::store::{Mode as StoreMode, Store, StoreError};
use std::fs::{File, TryLockError};
use std::io::Write as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// Between two looks at the outbox and at the heartbeat: how late an alert may be.
const LOOK: Duration = Duration::from_secs(1);
/// After a failed read or write of the database.
const PAUSE: Duration = Duration::from_secs(5);
/// Between two of the mailer's own beats, and until the next is due at the latest: a send may take minutes.
const BEAT_MS: i64 = 10_000;
const BEAT_DUE_MS: i64 = 600_000;
/// A mail on its way when the mailer is told to stop may take this long: cutting it off risks sending it twice.
const STOP_GRACE: Duration = Duration::from_secs(10);
/// A supervised mailer whose supervisor ended goes on trying a server that is down for so long.
const AFTERLIFE_MS: i64 = 600_000;

/// How long to go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mode {
    /// Until nothing is due.
    Once,
    /// Until told to stop.
    Daemon,
    /// Until the supervisor has ended and the queue is empty.
    Supervised {
        /// Its process. Not asked of the kernel: it may be dead before we could ask, and we would wait for ever for the death
        /// of whoever adopted us.
        supervisor: i32,
    },
}

impl Mode {
    fn is_orphan(self) -> bool {
        matches!(self, Mode::Supervised { supervisor } if nix::unistd::getppid().as_raw() != supervisor)
    }
}

type Post = Courier<AnyCarrier, fn() -> UnixMillis>;

fn wall() -> UnixMillis {
    clock::now().wall
}

/// Runs the mailer on `database`. `again` is the command that tries once more what was refused.
pub(super) async fn run(
    config: &Config,
    database: &Path,
    mode: Mode,
    requeue: bool,
    format: Format,
    again: &str,
) -> Done {
    let stop = Stop::listen(mode).map_err(|e| CannotStart(format!("cannot listen for signals: {e}")))?;
    let carrier = setup::carrier(config).map_err(CannotStart)?;
    let routes = setup::routes(config).map_err(CannotStart)?;
    let seed = clock::micros().cast_unsigned() ^ u64::from(std::process::id()).rotate_left(40);
    let mut courier: Post = Courier::new(carrier, routes.clone(), wall, setup::backoff(&config.mail), seed);
    if mode == Mode::Once {
        return once(database, &routes, &mut courier, requeue, format, again).await;
    }
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]); // not under systemd: nobody to tell
    say(&format!("soakd mail: {} → {}", database.display(), setup::destination(&config.mail)));
    let daemon = Daemon { config, database, routes, mode, stop: &stop };
    tokio::select! {
        done = daemon.run(&mut courier, requeue) => done,
        () = stop.told() => Ok(Outcome::Passed),
    }
}

/// Sends what is due.
async fn once(
    database: &Path,
    routes: &Routes,
    courier: &mut Post,
    requeue: bool,
    format: Format,
    again: &str,
) -> Done {
    let mut desk = open(database, routes).map_err(CannotStart::because)?;
    desk.talks = format == Format::Text;
    let _lock = match lock(database) {
        Ok(lock) => lock,
        Err(busy) => return Err(CannotStart(busy)),
    };
    if requeue {
        let count = desk.store.record(|to| to.requeue_failed(wall())).map_err(CannotStart::because)?;
        if desk.talks {
            say(&format!("put back into the queue: {count}"));
        }
    }
    let mut total = Round::default();
    loop {
        let round = courier.round(&mut desk).await.map_err(CannotStart::because)?;
        total.sent += round.sent;
        total.set_aside += round.set_aside;
        total.failed += round.failed;
        total.last_error = round.last_error.or(total.last_error);
        if round.next.is_none_or(|next| next > wall()) {
            break;
        }
    }
    let counts = desk.store.outbox_counts().map_err(CannotStart::because)?;
    if format == Format::Json {
        let json = serde_json::json!({
            "sent": total.sent, "set_aside": total.set_aside, "still_queued": counts.queued,
            "last_error": total.last_error, "failed": counts.failed,
        });
        say(&json.to_string());
    } else {
        for mail in desk.store.outbox_heads().map_err(CannotStart::because)? {
            let why = mail.last_error.as_deref().unwrap_or("it has not been tried yet");
            let (id, subject, next) = (mail.outbox_id, &mail.mail.subject, iso(mail.next));
            say(&format!("waits     {id}  {subject}  (next try not before {next}; the last one: {why})"));
        }
        say(&format!("sent {}, set aside {}, still queued {}", total.sent, total.set_aside, counts.queued));
        if counts.failed > 0 {
            say(&format!("refused for good, in all: {}; `{again}` tries again", counts.failed));
        }
    }
    Ok(if counts.queued == 0 && total.set_aside == 0 { Outcome::Passed } else { Outcome::Failed })
}

struct Daemon<'a> {
    config: &'a Config,
    database: &'a Path,
    routes: Routes,
    mode: Mode,
    stop: &'a Stop,
}

impl Daemon<'_> {
    async fn run(&self, courier: &mut Post, mut requeue: bool) -> Done {
        let mut trouble = Trouble::default();
        loop {
            let Some((mut desk, _lock)) = self.arrive(&mut trouble).await? else { return Ok(Outcome::Passed) };
            if std::mem::take(&mut requeue) {
                let done = desk.store.record(|to| to.requeue_failed(wall()));
                trouble.note(done.map(|count| say(&format!("put back into the queue: {count}"))));
            }
            if self.drain(&mut desk, courier, &mut trouble).await {
                return Ok(Outcome::Passed);
            }
        }
    }

    /// Opens the database and becomes its only mailer, however long both take. `None`: nothing will come any more.
    async fn arrive(&self, trouble: &mut Trouble) -> Result<Option<(Desk, File)>, CannotStart> {
        loop {
            let opened = open(self.database, &self.routes).map_err(|error| (must_end(&error), error.to_string()));
            let arrived = opened.and_then(|desk| Ok((desk, lock(self.database).map_err(|busy| (false, busy))?)));
            match arrived {
                Ok((mut desk, lock)) => {
                    desk.talks = true;
                    trouble.over();
                    return Ok(Some((desk, lock)));
                }
                Err((true, error)) => return Err(CannotStart(error)),
                Err((false, error)) => trouble.say(&error),
            }
            if self.mode.is_orphan() {
                return Ok(None);
            }
            tokio::time::sleep(LOOK).await;
            pet_watchdog();
        }
    }

    /// True to end, false when the file under `desk` was replaced by another.
    async fn drain(&self, desk: &mut Desk, courier: &mut Post, trouble: &mut Trouble) -> bool {
        let inode = inode(self.database);
        let mut watch = None;
        let (mut beat, mut disk): (Option<Now>, Disk) = (None, Disk::default());
        let mut ended: Option<Now> = None;
        loop {
            let now = clock::now();
            let done = self.round(desk, courier, &mut watch, &mut beat, &mut disk, now).await;
            let (next, pause) = match done {
                Ok(round) => {
                    trouble.over();
                    (round.next, LOOK)
                }
                Err(error) => {
                    trouble.say(&error.to_string());
                    (Some(now.wall), PAUSE)
                }
            };
            if self.stop.is_set() || self.is_done(watch.as_ref(), next, &mut ended, clock::now()) {
                let _ = desk.store.record(|to| to.heartbeat("mailer", wall(), None, None)); // a clean end; nothing depends on it
                return true;
            }
            if self::inode(self.database) != inode {
                return false;
            }
            // Between rounds of a long queue there is no wait: the next mail is due at once.
            let due = next.is_some_and(|at| at <= wall()) && pause == LOOK;
            tokio::time::sleep(if due { Duration::from_millis(1) } else { pause }).await;
        }
    }

    async fn round(
        &self,
        desk: &mut Desk,
        courier: &mut Post,
        watch: &mut Option<Watch>,
        beat: &mut Option<Now>,
        disk: &mut Disk,
        now: Now,
    ) -> Result<Round, StoreError> {
        pet_watchdog();
        if beat.is_none_or(|at| now.mono.since(at.mono) >= BEAT_MS) {
            let due = UnixMillis(now.wall.0 + BEAT_DUE_MS);
            let beaten = desk.store.record(|to| to.heartbeat("mailer", now.wall, None, Some(due)));
            *beat = beaten.is_ok().then_some(now);
            disk.look(beaten.as_ref().err(), desk, courier, now).await;
            beaten?; // what cannot be recorded as sent is not sent
        }
        let watch = if let Some(watch) = watch {
            watch
        } else {
            let silent_ms = millis(self.config.mailer.supervisor_silent_after);
            watch.insert(Watch::resume(&desk.store, &desk.host, silent_ms)?)
        };
        watch.look(desk, now)?;
        courier.round(desk).await
    }

    /// Whether a supervised mailer has nothing more to do. One that systemd runs never ends by itself.
    fn is_done(&self, watch: Option<&Watch>, next: Option<UnixMillis>, ended: &mut Option<Now>, now: Now) -> bool {
        let (Mode::Supervised { supervisor }, Some(watch)) = (self.mode, watch) else { return false };
        let Some(pulse) = watch.pulse() else { return self.mode.is_orphan() && next.is_none() };
        let ours = pulse.pid == i64::from(supervisor);
        let over = (ours && pulse.expects.is_none()) || (self.mode.is_orphan() && (!ours || watch.is_lost()));
        if !over {
            *ended = None;
            return false;
        }
        let since = *ended.get_or_insert(now);
        match next {
            None => true,
            Some(_) if !ours && pulse.expects.is_some() => true, // another supervisor has brought its own mailer
            Some(_) if now.mono.since(since.mono) < AFTERLIFE_MS => false,
            Some(_) => {
                say(
                    "soakd mail: the run has ended and mails still wait; `soakd mail` sends them when the server is back",
                );
                true
            }
        }
    }
}

fn open(database: &Path, routes: &Routes) -> Result<Desk, StoreError> {
    let store = Store::open(database, StoreMode::Join)?;
    Ok(Desk { store, routes: routes.clone(), host: crate::probe::host::hostname(), talks: false })
}

/// What waiting does not mend. A file that is not there, or not yet brought up to date, is the supervisor's to make.
fn must_end(error: &StoreError) -> bool {
    matches!(error, StoreError::NotOurs { .. } | StoreError::NotADatabase { .. } | StoreError::Newer { .. })
}

/// Two mailers on one database would send everything twice. The lock goes with the process, however it ends.
fn lock(database: &Path) -> Result<File, String> {
    let mut name = database.as_os_str().to_owned();
    name.push("-mailer");
    let path = PathBuf::from(name);
    let mut file =
        File::options().create(true).read(true).write(true).truncate(false).open(&path).map_err(|error| {
            format!("{}: {error}; the mailer needs a file beside the database for its lock", path.display())
        })?;
    match file.try_lock() {
        Ok(()) => {
            // For the message below only.
            let _ = file.set_len(0).and_then(|()| writeln!(file, "{}", std::process::id()));
            Ok(file)
        }
        Err(TryLockError::WouldBlock) => {
            let holder = std::fs::read_to_string(&path).unwrap_or_default();
            Err(format!(
                "{}: another soakd mail (process {}) takes care of it already",
                database.display(),
                holder.trim()
            ))
        }
        Err(TryLockError::Error(error)) => Err(format!("{}: {error}", path.display())),
    }
}

fn inode(path: &Path) -> Option<(u64, u64)> {
    std::fs::metadata(path).ok().map(|meta| (meta.dev(), meta.ino()))
}

/// Says a trouble once, not every second, and when it is over.
#[derive(Default)]
struct Trouble {
    said: Option<String>,
}

impl Trouble {
    fn say(&mut self, error: &str) {
        if self.said.as_deref() != Some(error) {
            say(&format!("soakd mail: waiting: {error}"));
            self.said = Some(error.to_owned());
        }
    }

    fn over(&mut self) {
        if self.said.take().is_some() {
            say("soakd mail: going on");
        }
    }

    fn note(&mut self, result: Result<(), StoreError>) {
        if let Err(error) = result {
            self.say(&error.to_string());
        }
    }
}

fn pet_watchdog() {
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Watchdog]); // not under systemd: nobody to tell
}

/// How a mailer is told to end. A supervised one leaves Ctrl-C and SIGTERM to its supervisor, whose last mails it is to send: they
/// may have been sent to everybody (a scope that is stopped, a batch job that is cancelled). Without a supervisor SIGTERM counts.
struct Stop {
    now: Arc<AtomicBool>,
    all_asked: Arc<AtomicBool>,
    mode: Mode,
}

impl Stop {
    fn listen(mode: Mode) -> std::io::Result<Stop> {
        use signal_hook::consts::{SIGINT, SIGTERM, SIGUSR1};
        use signal_hook::flag::register;
        let stop = Stop { now: Arc::default(), all_asked: Arc::default(), mode };
        if matches!(mode, Mode::Supervised { .. }) {
            register(SIGUSR1, Arc::clone(&stop.now))?;
            register(SIGTERM, Arc::clone(&stop.all_asked))?;
            register(SIGINT, Arc::default())?;
        } else {
            register(SIGTERM, Arc::clone(&stop.now))?;
            register(SIGINT, Arc::clone(&stop.now))?;
        }
        Ok(stop)
    }

    fn is_set(&self) -> bool {
        self.now.load(Ordering::SeqCst) || (self.all_asked.load(Ordering::SeqCst) && self.mode.is_orphan())
    }

    /// Completes some time after that, when a mail on its way has had its time; keeps systemd's watchdog content meanwhile.
    async fn told(&self) {
        while !self.is_set() {
            tokio::time::sleep(Duration::from_millis(200)).await;
            pet_watchdog();
        }
        tokio::time::sleep(STOP_GRACE).await;
    }
}

fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
