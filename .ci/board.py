"""Holds the Grafana board to Grafana's own models (grafana-foundation-sdk) and each of its questions to PromQL's grammar.

What the models do not know is dropped when they read it, so nothing may be missing from what they write.

Usage: board.py soakd.json
"""

import importlib
import json
import sys

import promql_parser
from grafana_foundation_sdk.cog import encoder
from grafana_foundation_sdk.models import dashboard

wrong = []


def lost(before, after, at):
    """Names what is in `before` and not in `after`."""
    if isinstance(before, dict) and isinstance(after, dict):
        for key, value in before.items():
            if key in after:
                lost(value, after[key], f"{at}.{key}")
            else:
                wrong.append(f"{at}.{key} is nothing that Grafana knows")
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for number, (one, other) in enumerate(zip(before, after)):
            lost(one, other, f"{at}[{number}]")
    elif before != after:
        wrong.append(f"{at}: {before!r} was read as {after!r}")


def through(model, value, at):
    lost(value, json.loads(encoder.JSONEncoder().encode(model.from_json(value))), at)


board = json.load(open(sys.argv[1]))
through(dashboard.Dashboard, board, "board")
questions = 0
for panel in board["panels"]:
    kind = importlib.import_module(f"grafana_foundation_sdk.models.{panel['type']}")
    through(kind.Options, panel.get("options", {}), f"{panel['title']}.options")
    custom = panel["fieldConfig"]["defaults"].get("custom")
    if custom:
        through(kind.FieldConfig, custom, f"{panel['title']}.custom")
    for target in panel["targets"]:
        questions += 1
        try:
            promql_parser.parse(target["expr"].replace("$instance", ".*"))
        except ValueError as error:
            wrong.append(f"{panel['title']}: {target['expr']}: {error}")
for line in wrong:
    print("BAD ", line)
print(f"{len(board['panels'])} panels, {questions} questions, {len(wrong)} faults")
sys.exit(1 if wrong else 0)
