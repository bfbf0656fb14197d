//! Supervisor and mailer are killed at random moments, alone, together and in the middle of a mail, while alerts come and go
//! on several routes and a server on a real socket refuses, stalls and swallows answers: no alert is lost, none torn from
//! its thread, each route keeps its order, and nothing comes twice but what the server's answer was lost of.

use super::smtp_server::{Fault, Received, SmtpServer, Stage};
use super::victim::{CONFIG, Dice, Victim, binary, kill, number, spawn};
use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

/// Sixty mails an hour are all that a person reads, and all that soakd sends: a run has as many kills as make fewer.
const KILLS_PER_RUN: u64 = 27;
/// For a mail to be on its way; there is not always one.
const UNDER_WAY: Duration = Duration::from_secs(3);

/// Alerts that come and go with the restarts of soakd, so that each kill may fall between an alert and its mail, or between
/// FIRING and RESOLVED, however fast the machine is. Two of a group, one alone, and one that comes a restart later.
const RULES: &str = r#"
[[rule]]
name = "pair"
severity = "page"
group_wait = "0s"
group_by = ["turn"]
repeat = "1h"
labels = ["turn", "half"]
sql = """SELECT CAST(n / 2 AS TEXT) AS turn, half FROM (SELECT count(*) AS n FROM event WHERE run_id = :run AND kind = 'run_resumed'),
  (SELECT 'left' AS half UNION ALL SELECT 'right') WHERE n % 2 = 0"""
summary = "pair turn {{ turn }} {{ half }}"
[[rule]]
name = "single"
severity = "page"
route = "gpu"
group_wait = "0s"
group_by = ["turn"]
repeat = "1h"
labels = ["turn"]
sql = """SELECT CAST(n / 2 AS TEXT) AS turn FROM (SELECT count(*) AS n FROM event WHERE run_id = :run AND kind = 'run_resumed')
  WHERE n % 2 = 0"""
summary = "single turn {{ turn }}"
[[rule]]
name = "later"
severity = "page"
route = "cto"
group_wait = "0s"
group_by = ["turn"]
repeat = "1h"
labels = ["turn"]
sql = """SELECT CAST(n / 2 AS TEXT) AS turn FROM (SELECT count(*) AS n FROM event WHERE run_id = :run AND kind = 'run_resumed')
  WHERE n % 2 = 1"""
summary = "later turn {{ turn }}"
"#;

/// Who is killed, and when.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Blow {
    Mailer,
    Supervisor,
    Both,
    MailerInMail,
    BothInMail,
}

const BLOWS: [Blow; 6] =
    [Blow::Mailer, Blow::Supervisor, Blow::MailerInMail, Blow::Supervisor, Blow::Both, Blow::BothInMail];

#[derive(Debug, Default)]
struct Tally {
    blows: BTreeMap<Blow, u64>,
    in_mail: u64,
    alerts: i64,
    mails: usize,
    repeats: usize,
    answers_lost: usize,
}

#[test]
fn killed_supervisor_and_mailer_lose_no_alert_and_tear_no_thread() {
    let seed = number("SOAKD_SEED").unwrap_or(11);
    let kills = number("SOAKD_KILLS").unwrap_or(12);
    println!("seed {seed}, {kills} kills");
    let (mut all, mut done) = (Tally::default(), 0);
    while done < kills {
        let some = KILLS_PER_RUN.min(kills - done);
        let one = one_run(seed + done, some);
        one.blows.into_iter().for_each(|(blow, n)| *all.blows.entry(blow).or_default() += n);
        (all.in_mail, all.alerts, all.mails) =
            (all.in_mail + one.in_mail, all.alerts + one.alerts, all.mails + one.mails);
        (all.repeats, all.answers_lost) = (all.repeats + one.repeats, all.answers_lost + one.answers_lost);
        done += some;
        println!("{done} of {kills} kills: {all:?}");
    }
    assert!(
        all.alerts as u64 >= kills / 2 && all.answers_lost > 0,
        "alerts came and went, and answers were lost: {all:?}"
    );
    println!(
        "{kills} kills from seed {seed}, {:?}, of them {} in the middle of a mail: {} alerts fired and ended, {} mails, none lost, none torn \
         from its thread, each route in order; {} came twice, each under its Message-ID and after an answer that was lost ({} by the \
         server, the rest with the mailer)",
        all.blows, all.in_mail, all.alerts, all.mails, all.repeats, all.answers_lost
    );
}

/// A server that stalls in the middle of mails (for `under_way` to be seen), loses one answer in four and defers one in nine.
fn server(under_way: &Arc<AtomicU64>) -> SmtpServer {
    let under_way = Arc::clone(under_way);
    SmtpServer::faulty(move |_, stage| match stage {
        Stage::Data => {
            under_way.fetch_add(1, Ordering::SeqCst);
            Fault::Slow(Duration::from_millis(40))
        }
        Stage::Message => match under_way.load(Ordering::SeqCst) {
            n if n % 4 == 2 => Fault::TakeAndClose,
            n if n % 9 == 4 => Fault::Reply("451 4.3.0 not now"),
            _ => Fault::Slow(Duration::from_millis(40)),
        },
        _ => Fault::None,
    })
}

fn one_run(seed: u64, kills: u64) -> Tally {
    let (mut dice, mut tally) = (Dice(seed), Tally::default());
    let under_way = Arc::new(AtomicU64::new(0));
    let server = server(&under_way);
    let mut victim = begin(server.address.port());
    victim.until("SELECT count(*) > 0 FROM outbox");
    let (mut resumed, mut deaths, mut hand) = (0, Vec::new(), Vec::new());
    for n in 0..kills {
        // Each kind of blow as often as the others, in an order of the seed's.
        if hand.is_empty() {
            hand = BLOWS.to_vec();
        }
        let blow = hand.remove(dice.below(hand.len() as u64) as usize);
        std::thread::sleep(Duration::from_millis(dice.below(900)));
        let needs_mailer = blow != Blow::Supervisor;
        if needs_mailer {
            victim.wait_for("a mailer", || victim.pid("mailer").is_some());
        }
        if matches!(blow, Blow::MailerInMail | Blow::BothInMail) {
            tally.in_mail += u64::from(is_under_way(&under_way, dice.below(70)));
        }
        if needs_mailer {
            let mailer = victim.pid("mailer");
            if mailer.is_some_and(kill) {
                deaths.push(Instant::now());
                victim.wait_for("the mailer to end", || victim.pid("mailer") != mailer);
            }
        }
        *tally.blows.entry(blow).or_default() += 1;
        if matches!(blow, Blow::Supervisor | Blow::Both | Blow::BothInMail) {
            victim.kill_supervisor();
            std::thread::sleep(Duration::from_millis(dice.below(400)));
            victim.resume();
            resumed += 1;
            victim.until(&format!("SELECT count(*) = {resumed} FROM event WHERE kind = 'run_resumed'"));
        }
        assert_eq!(victim.is_whole(), "ok", "seed {seed}, kill {n}");
    }
    finish(&mut victim, seed);
    tally.alerts = every_alert_is_told(&victim, seed);
    judge(&server.received(), &victim, &deaths, seed, &mut tally);
    tally
}

fn begin(port: u16) -> Victim {
    let mail = format!(
        "[alerts]\nbuiltin = false\nrules = [\"rules.toml\"]\nevaluate_every = \"200ms\"\n[mail]\ntransport = \"smtp\"\nhost = \"127.0.0.1\"\n\
         port = {port}\ntls = \"none\"\nfrom = \"soakd@x.org\"\nretry_min = \"100ms\"\nretry_max = \"500ms\"\nheartbeat_every = \"none\"\n\
         [mail.routes]\ndefault = [\"ops@x.org\", \"night@x.org\"]\ngpu = [\"gpu@x.org\"]\ncto = [\"cto@x.org\"]\n"
    );
    let folder = tempfile::tempdir().expect("a folder");
    std::fs::write(folder.path().join("soak.toml"), format!("{CONFIG}{mail}")).expect("written");
    std::fs::write(folder.path().join("rules.toml"), RULES).expect("written");
    let process = spawn(folder.path());
    Victim { folder, process }
}

/// Waits for a mail that is just being handed over, and then for `ms` more. Whether there was one.
fn is_under_way(under_way: &AtomicU64, ms: u64) -> bool {
    let (before, since) = (under_way.load(Ordering::SeqCst), Instant::now());
    while since.elapsed() < UNDER_WAY {
        if under_way.load(Ordering::SeqCst) != before {
            std::thread::sleep(Duration::from_millis(ms));
            return true;
        }
        std::thread::sleep(Duration::from_millis(2));
    }
    false
}

/// The run ends, and what its last mailer did not manage in its few seconds is the next one's.
fn finish(victim: &mut Victim, seed: u64) {
    victim.until("SELECT count(*) > 0 FROM process WHERE role = 'worker' AND ended_unix_ms IS NULL");
    victim.end();
    victim.wait_for("everything to end", || victim.others().is_empty());
    let started = Instant::now();
    let mut said = None;
    while victim.number("SELECT count(*) FROM outbox WHERE state = 'queued'") > 0 {
        assert!(started.elapsed() < Duration::from_secs(120), "seed {seed}: mails stay behind: {said:?}");
        said = Some(Command::new(binary()).args(["mail", "--once"]).current_dir(victim.folder.path()).output());
    }
    assert_eq!(victim.number("SELECT count(*) FROM outbox WHERE state <> 'sent'"), 0, "seed {seed}");
    assert_eq!(victim.is_whole(), "ok", "seed {seed}");
}

/// By the database: whatever fired has its mail, and whatever ended a mail that says so. Gives how many fired.
fn every_alert_is_told(victim: &Victim, seed: u64) -> i64 {
    let untold = |condition: &str, kinds: &str| {
        victim.number(&format!(
            "SELECT count(*) FROM alert WHERE fired_unix_ms IS NOT NULL AND {condition} AND NOT EXISTS (SELECT 1 FROM alert_decision AS d
               JOIN outbox AS o USING (outbox_id) WHERE d.alert_id = alert.alert_id AND o.kind IN ({kinds}))"
        ))
    };
    assert_eq!(untold("1", "'alert'"), 0, "seed {seed}: every alert that fired has its FIRING");
    assert_eq!(untold("state = 'resolved'", "'resolved'"), 0, "seed {seed}: every alert that ended has its RESOLVED");
    victim.number("SELECT count(*) FROM alert WHERE fired_unix_ms IS NOT NULL")
}

/// By the mailboxes.
fn judge(got: &[Received], victim: &Victim, deaths: &[Instant], seed: u64, tally: &mut Tally) {
    let mut first: BTreeMap<String, usize> = BTreeMap::new();
    let mut copies: BTreeMap<String, Vec<&Received>> = BTreeMap::new();
    for (at, mail) in got.iter().enumerate() {
        let (id, parent, subject) = (mail.header("Message-ID"), mail.header("In-Reply-To"), mail.header("Subject"));
        assert!(
            parent.is_empty() || first.contains_key(&parent),
            "seed {seed}: {subject:?} came before what it answers"
        );
        if subject.starts_with("[RESOLVED]") {
            assert!(!parent.is_empty(), "seed {seed}: {subject:?} is torn from its thread");
            let begun = got[first[&parent]].header("Subject");
            assert!(begun.starts_with("[PAGE]"), "seed {seed}: {subject:?} answers {begun:?}");
            assert_eq!(turn(&subject), turn(&begun), "seed {seed}: it answers another alert");
        }
        first.entry(id.clone()).or_insert(at);
        copies.entry(id).or_default().push(mail);
    }
    let mut used: BTreeSet<usize> = BTreeSet::new();
    for (id, copies) in &copies {
        for pair in copies.windows(2) {
            tally.repeats += 1;
            assert_eq!(pair[0].header("Subject"), pair[1].header("Subject"), "seed {seed}: two mails under {id}");
            // The server said nothing, or whom it told was dead by then: one mailer has one mail in hand.
            let died = |n: &usize| !used.contains(n) && deaths[*n] >= pair[0].began && deaths[*n] <= pair[1].at;
            let death = (0..deaths.len()).find(died).filter(|_| pair[0].answered);
            used.extend(death);
            assert!(!pair[0].answered || death.is_some(), "seed {seed}: {id} came again although it was answered");
        }
    }
    order_is_kept(&first, victim, seed);
    tally.mails = copies.len();
    tally.answers_lost = got.iter().filter(|mail| !mail.answered).count();
}

/// `pair turn 3 left` → `pair turn 3`: what a group is about.
fn turn(subject: &str) -> Option<String> {
    let (before, after) = subject.split_once(" turn ")?;
    let number: String = after.chars().take_while(char::is_ascii_digit).collect();
    Some(format!("{} {number}", before.rsplit(' ').next()?))
}

/// Each mail of the outbox arrived, and on each route in the order in which it was written.
fn order_is_kept(first: &BTreeMap<String, usize>, victim: &Victim, seed: u64) {
    let connection = victim.connection().expect("it opens");
    let mut statement = connection.prepare("SELECT route, message_id FROM outbox ORDER BY outbox_id").expect("SQL");
    let rows = statement.query_map([], |row| Ok((row.get(0)?, row.get(1)?))).expect("rows");
    let rows: Vec<(String, String)> = rows.collect::<Result<_, _>>().expect("text");
    assert_eq!(rows.len(), first.len(), "seed {seed}: each arrived, under its own id");
    let mut last: BTreeMap<&str, usize> = BTreeMap::new();
    for (route, id) in &rows {
        let at = *first.get(id).unwrap_or_else(|| panic!("seed {seed}: {id} never arrived"));
        let before = last.insert(route, at);
        assert!(before.is_none_or(|before| before < at), "seed {seed}: on route {route} {id} overtook another");
    }
}
