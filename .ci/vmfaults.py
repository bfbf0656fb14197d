"""Faults of a host that only a machine of one's own can be given: for `.ci/vm`, which has the guest and the table."""

import pathlib
import re
import time

import guest as vm

TREE = pathlib.Path(__file__).resolve().parent.parent
COUNT = 'SELECT count(*) FROM event WHERE kind = "{}" AND run_id = {}'
LIVES = 'SELECT max(incarnation) FROM process WHERE role = "worker" AND run_id = {}'
LONGEST = "SELECT round(max(apart_ms) / 1e3, 1) FROM (SELECT unix_ms - lag(unix_ms) OVER (ORDER BY unix_ms) AS apart_ms FROM {} {} WHERE run_id = {})"
LAST = 'SELECT summary FROM event WHERE kind = "{}" ORDER BY event_id DESC LIMIT 1'

# Holds what it is told to, a bit more each second, and more once it is told so by a file.
TOY = """import os, sys, time
held, step = [bytearray(os.urandom(1 << 20) * int(sys.argv[1]))], int(sys.argv[2])
while True:
    if os.path.exists("/run/toy-grow"):
        held.append(bytearray(b"x" * (step << 20)))
    time.sleep(1)
"""
# Takes memory until the kernel has killed somebody for it, and gives all of it back. The pages are a memory disk's, which the kernel
# hands out without a program of ours in between: that would be paged out, too, and take a slow machine half an hour.
HOG = """mount -o remount,size=100% /dev/shm
echo -1000 >/proc/self/oom_score_adj
kills() { while read -r what n; do [ $what = oom_kill ] && echo $n; done </proc/vmstat; }
before=$(kills)
available=$(awk '/MemAvailable/{print $2}' /proc/meminfo)
fallocate -l $((available - 65536))K /dev/shm/hog
for n in $(seq 200); do
  [ "$(kills)" = "$before" ] || break
  fallocate -l 4M /dev/shm/hog$n
done
rm /dev/shm/hog*
"""


def put(b, path, text):
    b.guest.run(f"cat >{path}", check=True, stdin=text.encode())


def unharmed(b, run):
    """What no fault of the host may do."""
    b.seen("the worker lives on", b.number(LIVES.format(run)) == 1, b.number(LIVES.format(run)))
    ends = f'FROM event WHERE run_id = {run} AND kind IN ("worker_hang", "worker_crash", "probe_hang", "probe_crash")'
    b.seen("nobody is taken for hung or dead", b.number(f"SELECT count(*) {ends}") == 0, b.value(f'SELECT group_concat(kind || ": " || summary, "; ") {ends}') or "")
    before = b.number("SELECT count(*) FROM host_sample")
    b.within(30, "samples go on", lambda: b.number("SELECT count(*) FROM host_sample") > before + 2)


def suspend(b):
    """Suspend to RAM for 40 s."""
    run, at = b.begin(), time.time()
    b.sh("nohup rtcwake -m mem -s 40 >/tmp/rtc.log 2>&1 & sleep 1", 20)
    time.sleep(75)
    b.within(60, "is told as one", lambda: b.value(LAST.format("suspend")))
    b.within(10, "and is a gap of its length", lambda: b.value(f'SELECT to_unix_ms - from_unix_ms FROM gap WHERE run_id = {run} AND reason = "suspend" AND to_unix_ms - from_unix_ms BETWEEN 30000 AND 60000'))
    b.seen("not a step of the clock", b.number(COUNT.format("clock_step", run)) == 0)
    unharmed(b, run)
    b.within(60, "the on-call has a mail for it", lambda: b.mailed("suspend", at))


def pause(b):
    """The machine is stopped for a minute, unknown to it."""
    run = b.begin()
    for _ in range(b.times):
        b.guest.monitor("stop")
        time.sleep(60)
        b.guest.monitor("cont")
        time.sleep(10)
    unharmed(b, run)
    # Whose clock would have said that somebody was silent: the worker's samples come by its own word, the host's by the probe's.
    b.seen("its clocks stood still with it", b.value(f"SELECT count(*) FROM gap WHERE run_id = {run}") == "0",
           ", ".join(f"longest between two {table}s: {b.value(LONGEST.format(table, join, run))} s" for table, join in
                     (("work_sample", "JOIN process USING (process_id)"), ("host_sample", ""))))
    b.seen("the watchdog has not bitten", b.property("NRestarts") == "0" and b.number("SELECT max(run_id) FROM run") == run)


def clock(b):
    """The wall clock is stepped an hour on, and two back."""
    run, at = b.begin(), time.time()
    served = lambda: float(re.search(r", ([0-9.]+) h of", b.property("StatusText"))[1])
    before = served()
    for turn, step in enumerate(("+1 hour", "-2 hours", "+1 hour"), 1):
        b.sh(f"date -s '{step}'")
        b.within(30, f"date -s '{step}' is told", lambda: b.number(COUNT.format("clock_step", run)) == turn and b.value(LAST.format("clock_step")))
        time.sleep(5)
    b.seen("none of it is uptime", served() - before < 0.1, f"{before} h, then {served()} h")
    unharmed(b, run)
    b.within(60, "the on-call has a mail for it", lambda: b.mailed("clock", at))
    b.guest.run("systemctl stop soakd")
    row = b.ask(f"SELECT state, verdict FROM run WHERE run_id = {run}")
    b.seen("systemctl stop ends with a verdict", row and row[0] == "interrupted" and row[1], row)
    uptime = b.ask(f"SELECT round(span_hours, 3), round(gap_hours, 3) FROM v_uptime WHERE run_id = {run}")
    b.seen("no gap is made of it", uptime and float(uptime[1]) < 0.1, uptime)


def zone(b):
    """The time zone changes."""
    run = b.begin()
    newest = b.number("SELECT max(event_id) FROM event")
    b.sh("ln -sf /usr/share/zoneinfo/Asia/Kathmandu /etc/localtime")
    time.sleep(10)
    events = f"FROM event WHERE event_id > {newest} AND kind IN (\"clock_step\", \"suspend\", \"run_resumed\")"
    b.seen("it is told as nothing", b.number(f"SELECT count(*) {events}") == 0, b.value(f"SELECT group_concat(summary) {events}") or "")
    unharmed(b, run)
    b.sh("ln -sf /usr/share/zoneinfo/UTC /etc/localtime")


def disk(b):
    """A small disk that really fills."""
    b.sh("systemctl stop soakd soakd-mail; mount /dev/vdb /var/lib/soakd && chown soakd: /var/lib/soakd && chmod 700 /var/lib/soakd")
    run, at = b.begin(), time.time()
    # In one go: what soakd has set aside for this moment is for it, as long as nobody goes on filling.
    fill = "fallocate -l $(($(df --output=avail -B1 /var/lib/soakd | tail -1) - 4096)) /var/lib/soakd/{0}; dd if=/dev/zero of=/var/lib/soakd/{0}-rest bs=4096 count=9 2>/dev/null; sync"
    b.sh(fill.format("filler"))
    b.within(150, "the on-call has a mail for it", lambda: b.mailed("nothing can be written", at))
    b.sh("pkill -KILL -f internal-worker")
    b.within(60, "a crash is recorded on the full disk", lambda: b.number(COUNT.format("worker_crash", run)) == 1)
    b.within(90, "and mailed", lambda: b.mailed("worker-0", at))
    b.sh(fill.format("more"))
    b.seen("filled once more, what was set aside and all", "100%" in b.sh("df /var/lib/soakd | tail -1"), b.sh("df --output=avail,pcent /var/lib/soakd | tail -1"))
    b.sh("pkill -KILL -f internal-worker")
    b.within(60, "soakd knows of another crash", lambda: "crashes: 2" in b.property("StatusText"))
    b.seen("the supervisor lives on", b.is_up() and b.property("NRestarts") == "0")
    b.sh("rm /var/lib/soakd/filler* /var/lib/soakd/more*")
    b.within(90, "room again is told", lambda: b.value(LAST.format("disk_recovered")))
    b.within(60, "what happened meanwhile is recorded", lambda: b.number(COUNT.format("worker_crash", run)) == 2)
    b.within(360, "and mailed (a group has a mail in five minutes)", lambda: len([subject for subject in b.mailbox.subjects(at) if "worker-0" in subject]) >= 2)
    before = b.number("SELECT count(*) FROM host_sample")
    b.within(60, "samples go on", lambda: b.number("SELECT count(*) FROM host_sample") > before + 2)
    holes = f"""SELECT count(*) FROM (SELECT unix_ms AS upto, unix_ms - lag(unix_ms) OVER (ORDER BY unix_ms) AS hole FROM host_sample WHERE run_id = {run})
      WHERE hole > 15000 AND NOT EXISTS (SELECT 1 FROM gap WHERE from_unix_ms <= upto AND to_unix_ms >= upto - hole)"""
    b.seen("what was shed is a gap", b.number(holes) == 0, b.ask(f"SELECT reason, round((to_unix_ms - from_unix_ms) / 1e3, 1) FROM gap WHERE run_id = {run}"))
    b.seen("PRAGMA integrity_check", b.integrity() == "ok")
    b.sh("systemctl stop soakd soakd-mail; umount /var/lib/soakd")


def oom(b):
    """The host has no memory left."""
    run, at = b.begin(), time.time()
    put(b, "/root/hog.sh", HOG)
    b.sh("sh /root/hog.sh", 240)
    b.seen("the kernel kills the worker, and no other", "soakd" in b.sh("journalctl -k --no-pager | grep 'Out of memory: Killed' | tail -1"),
           b.sh("journalctl -k --no-pager -o cat | grep -o 'Out of memory: Killed.*' | tail -1"))
    b.within(60, "told from a crash", lambda: b.value(LAST.format("worker_oom")))
    b.within(90, "the worker comes back", lambda: (b.number(LIVES.format(run)) or 0) >= 2 and b.until_soaking(5))
    b.seen("the supervisor lives on", b.is_up() and b.property("NRestarts") == "0")
    b.within(60, "the on-call has a mail for it", lambda: b.mailed("memory|OOM|killed", at))


def limit(b):
    """MemoryMax= of soakd's own unit, and a worker that leaks."""
    b.sh("mkdir -p /etc/systemd/system/soakd.service.d")
    put(b, "/etc/systemd/system/soakd.service.d/leak.conf", """[Service]
MemoryMax=150M
ExecStart=
ExecStart=/usr/bin/soakd run --config /etc/soakd/soak.toml --inject '{"what":"leak","bytes_per_second":10000000}@5s'
""")
    b.sh("systemctl daemon-reload")
    try:
        run, at = b.begin(), time.time()
        b.within(120, "the worker is killed in the unit's control group", lambda: b.value(LAST.format("worker_oom")))
        b.within(60, "and comes back", lambda: (b.number(LIVES.format(run)) or 0) >= 2)
        b.seen("the unit goes on (OOMPolicy=continue)", b.is_up() and b.property("NRestarts") == "0", b.property("Result"))
        b.within(60, "the on-call has a mail for it", lambda: b.mailed("memory|OOM|killed", at))
    finally:
        b.sh("systemctl stop soakd; rm /etc/systemd/system/soakd.service.d/leak.conf; systemctl daemon-reload")


def watch(b, what, db, seconds, more=""):
    """`soakd run` on a target, in the background; its output and exit code land beside the database."""
    b.sh(f"cd /root && rm -f {db}* && (nohup sh -c 'soakd run --fresh {more} --db {db} --duration {seconds}s {what} >{db}.out 2>&1; echo $? >{db}.exit' >/dev/null 2>&1 &)")


def ended(b, db, seconds):
    until = time.monotonic() + seconds * vm.slowness()
    while time.monotonic() < until:
        code, said = b.guest.run(f"cat /root/{db}.exit")
        if code == 0:
            return int(said)
        time.sleep(1)
    return None


def cgroup(b):
    """A unit of the user's own with a memory limit, watched by name."""
    b.sh("systemctl stop soakd; rm -f /run/toy-grow")
    put(b, "/root/toy.py", TOY)
    b.sh("systemd-run --quiet --unit=toy -p MemoryMax=120M -p MemorySwapMax=0 python3 /root/toy.py 40 4")
    watch(b, "--unit toy.service", "toy.db", 600)
    b.within(60, "its control group's memory is sampled", lambda: (b.number("SELECT count(*) FROM process_sample WHERE cgroup_bytes > 0", "/root/toy.db") or 0) > 3)
    real = int(b.sh("cat /sys/fs/cgroup/system.slice/toy.service/memory.current"))
    time.sleep(3)
    ours = b.number("SELECT cgroup_bytes FROM process_sample WHERE cgroup_bytes > 0 ORDER BY unix_ms DESC LIMIT 1", "/root/toy.db")
    b.seen("and is memory.current", ours and abs(ours - real) < 0.02 * real, f"{ours} and {real} bytes")
    b.sh("touch /run/toy-grow")
    b.within(90, "the kernel kills it", lambda: b.property("Result", "toy") == "oom-kill")
    b.within(60, "which is a crash of the run", lambda: b.value('SELECT kind || ": " || summary FROM event WHERE kind IN ("worker_oom", "worker_crash") ORDER BY event_id LIMIT 1', "/root/toy.db"))
    b.seen("told as one for memory", b.number('SELECT count(*) FROM event WHERE kind = "worker_oom"', "/root/toy.db") == 1, b.ask('SELECT end_reason, exit_signal FROM process WHERE role = "worker"', "/root/toy.db"))
    b.sh("pkill -INT -f 'soakd run --fresh'")
    code = ended(b, "toy.db", 60)
    b.seen("the run has failed", code == 1, f"exit {code}: {b.sh('tail -n 4 /root/toy.db.out')}")
    b.sh("systemctl reset-failed toy; rm -f /run/toy-grow")


def command(b):
    """A command in a scope with a memory limit."""
    b.sh("touch /run/toy-grow")
    put(b, "/root/toy.py", TOY)
    b.sh("cd /root && rm -f cmd.db* && (nohup sh -c 'systemd-run --quiet --scope -p OOMPolicy=continue -p MemoryMax=120M -p MemorySwapMax=0 soakd run --fresh --db cmd.db --duration 60s -- python3 /root/toy.py 20 6 >cmd.db.out 2>&1; echo $? >cmd.db.exit' >/dev/null 2>&1 &)")
    b.within(120, "its end is told as one for memory", lambda: b.value(LAST.format("worker_oom"), "/root/cmd.db"))
    code = ended(b, "cmd.db", 200)
    b.seen("the supervisor in the same scope lives on, and says so", code == 1, f"exit {code}: {b.sh('grep -i crash /root/cmd.db.out | tail -n 1')}")
    b.sh("rm -f /run/toy-grow")


def container(b):
    """A target in a container (systemd-nspawn), seen from the host."""
    b.sh("rm -f /run/toy-grow; mkdir -p /opt/toy")
    put(b, "/root/toy.py", TOY)
    b.sh("cp /root/toy.py /opt/toy/; systemd-run --quiet --unit=box systemd-nspawn --quiet --directory=/ --volatile=yes --bind-ro=/opt/toy --machine=box --keep-unit --as-pid2 python3 /opt/toy/toy.py 60 4")
    inner = "pgrep -f '^python3 /opt/toy/toy.py'"
    b.within(60, "it runs in a process namespace of its own", lambda: b.guest.run(f"test $(readlink /proc/$({inner})/ns/pid) != $(readlink /proc/1/ns/pid)")[0] == 0)
    anon = lambda: int(re.search(r"(\d+)", b.sh(f"grep RssAnon /proc/$({inner})/status"))[1]) * 1024
    b.within(60, "it holds its 60 MiB", lambda: anon() > 60 << 20)
    anon = anon()
    for how, db in (("--unit box.service", "box.db"), (f"--pid {b.sh(inner)}", "pid.db")):
        watch(b, how, db, 15)
        code = ended(b, db, 120)
        seen = b.number("SELECT max(rss_anon_bytes) FROM process_sample WHERE process_id IN (SELECT process_id FROM process WHERE role IN (\"worker\", \"target_child\"))", f"/root/{db}")
        b.seen(f"its memory by {how.split()[0]}", code == 3 and seen and seen >= 0.99 * anon and seen < 1.4 * anon, f"{seen} and {anon} bytes, exit {code}")
    b.seen("its command has a name", b.value('SELECT group_concat(DISTINCT name) FROM process WHERE name IS NOT NULL', "/root/box.db"), b.value('SELECT group_concat(DISTINCT name) FROM process WHERE name IS NOT NULL', "/root/box.db"))
    b.sh("systemctl stop box")


def built():
    """The test binary that breaks workers, and the soakd that it starts, where they are looked for."""
    found = [path for path in (TREE / "target/debug/deps").glob("run_faults-*") if not path.suffix]
    found.sort(key=lambda path: path.stat().st_mtime)
    return [found[-1], TREE / "target/debug/soakd"] if found and (TREE / "target/debug/soakd").exists() else []


def tests(b):
    """The test set's own: what is skipped where there is no memory controller."""
    if not built():
        raise vm.GuestError("cargo test --no-run --test run_faults was not run")
    code, said = b.guest.run(f"cd {TREE} && {built()[0]} a_worker_that_the_kernel_kills_for_memory --nocapture", 500)
    b.seen("a worker that the kernel kills for memory is told from a crash", code == 0 and "no control group" not in said, said.splitlines()[-1] if said else "")


SCENARIOS = [cgroup, command, limit, clock, disk, oom, container, suspend, pause, zone, tests]
