"""Looks at what a short soak left behind, as a script of a user's would: the JSON contract, the database, the report.

Usage: look.py report.json report.html smoke.db SOAKD
"""

import json
import sqlite3
import subprocess
import sys

report_json, report_html, database, soakd = sys.argv[1:5]
wrong = []


def check(holds, what):
    print(("ok   " if holds else "BAD  ") + what)
    if not holds:
        wrong.append(what)


report = json.load(open(report_json))
fields = "run verdict series crashes hangs uptime_ratio throughput_tokens_per_s latency_ms golden_mismatches alerts".split()
check(all(field in report for field in fields), f"report has the fields of the contract: {fields}")
check(report.get("verdict") in ("within", "inconclusive"), f"verdict {report.get('verdict')}")
check(report.get("crashes") == 0 and report.get("hangs") == 0, "no crash, no hang")
check(report.get("golden_mismatches") == 0, "tokens as at first")
# How fast is for the benchmarks to say: this machine may be busy.
check((report.get("throughput_tokens_per_s") or 0) > 0, f"{report.get('throughput_tokens_per_s')} tokens/s")
check((report.get("uptime_ratio") or 0) > 0.9, f"uptime ratio {report.get('uptime_ratio')}")
series = report.get("series") or []
check(len(series) >= 3, f"{len(series)} series")
wanted = "verdict shape drift_bytes drift_ci95_bytes slope_bytes_per_hour minimum_detectable_drift_bytes samples span_s".split()
check(all(name in one for one in series for name in wanted), "each series has the fields of analyze")

html = open(report_html).read()
check("<svg" in html and "http://" not in html.replace("http://www.w3.org", ""), "the report is one self-contained file with plots")

tables = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
check(tables.execute("pragma integrity_check").fetchone() == ("ok",), "the database is sound")
rows = tables.execute("select count(*), count(distinct process_id) from process_sample").fetchone()
check(rows[0] >= 60 and rows[1] >= 2, f"{rows[0]} samples of {rows[1]} processes")
vram = tables.execute("select count(*) from process_sample where vram_bytes = 0").fetchone()[0]
check(vram == 0, "no GPU is NULL, never zero")
for (view,) in tables.execute("select name from sqlite_schema where type = 'view' and name like 'v_%'").fetchall():
    try:
        tables.execute(f"select * from {view} limit 3").fetchall()
    except sqlite3.Error as error:
        check(False, f"plain SQLite opens {view}: {error}")
out = subprocess.run([soakd, "query", "--db", database, "--format", "json", "select count(*) as n from run"], capture_output=True, text=True)
check(out.returncode == 0 and "1" in out.stdout, f"soakd query answers: {out.stdout.strip() or out.stderr.strip()}")
sys.exit(1 if wrong else 0)
