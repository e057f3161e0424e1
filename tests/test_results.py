"""The tables of docs/results.md are those of the comparisons' numbers."""

import csv
import re
from pathlib import Path

import pytest

from nearkin.papers import small

DOCS = Path(__file__).parents[1] / "docs"


@pytest.mark.parametrize("name", sorted(folder.name for folder in (DOCS / "results").iterdir()))
def test_every_number_of_a_table_is_in_the_summary(name):
    with (DOCS / "results" / name / "summary.csv").open() as file:
        summary = {(row["method"], row["metric"]): row for row in csv.DictReader(file)}

    def shown(method, metric):
        row = summary[method, metric]
        mean, low = float(row["mean"]), float(row["low"])
        return f"{100 * mean:.1f} ± {100 * (mean - low):.1f}"

    section = re.search(rf"^## {name}.*?(?=^## )", (DOCS / "results.md").read_text(), re.I | re.M | re.S)[0]
    table = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in section.splitlines() if "±" in line]
    table = [row for row in table if len(row) == 5]
    columns = (("", "recall@1"), (", tuned", "recall@1"), ("", "map@r"), (", tuned", "map@r"))
    for method, *cells in table:
        for cell, (kind, metric) in zip(cells, columns, strict=True):
            if cell:
                assert cell == shown(method + kind, metric)
            else:
                assert method.startswith("untrained")
                assert kind
    methods = {method for method, _ in summary}
    assert {row[0] for row in table} == {method for method in methods if not method.endswith(", tuned")}
    (pictures,) = [pictures for pictures in small.SETS if pictures.name == name]
    expected = {method + kind for method, *_ in small.methods(pictures) for kind in ("", ", tuned")}
    assert {method for method in methods if not method.startswith("untrained")} == expected
