"""The tables of CDISC: what stands where, and that the three fit together."""

from __future__ import annotations

import csv
import io
from datetime import date

import pytest
from LesionDetectorLib.followup.cdisc import RS_COLUMNS, TR_COLUMNS, TU_COLUMNS, Trial, rs, tr, tu
from LesionDetectorLib.followup.irecist import immune_responses
from LesionDetectorLib.followup.response import NewLesion, NonTarget, State, Target, TimePoint, assess
from LesionDetectorLib.refusal import Refusal

TRIAL = Trial("S1", "S1-001", start=date(2025, 3, 10))
NODE = {"node": True, "site": "Lymph node"}
POINTS = [
    TimePoint(date(2025, 3, 2), (Target("a", 21.0, site="Liver"), Target("b", 16.5, **NODE)), (NonTarget("c"),)),
    TimePoint(
        date(2025, 6, 1),
        (Target("a", state=State.TOO_SMALL), Target("b", 9, **NODE)),
        (NonTarget("c", State.ABSENT),),
        (NewLesion("d"),),
        "week 12",
    ),
    TimePoint(date(2025, 9, 1), (Target("a", 30),), new_lesions=(NewLesion("e", True), NewLesion("d"))),
]
ENTRIES = assess(POINTS)


def read(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


def columns(rows: list[dict[str, str]], *names: str) -> list[tuple[str, ...]]:
    return [tuple(row[name] for name in names) for row in rows]


def test_tumours_are_named_once_where_they_are_first_seen():
    rows = read(tu(ENTRIES, TRIAL))
    assert columns(rows, "TUSPID", "TULNKID", "TUORRES", "TULOC", "TUDTC", "TUDY", "VISITNUM") == [
        ("a", "T01", "TARGET", "LIVER", "2025-03-02", "-8", "1"),
        ("b", "T02", "TARGET", "LYMPH NODE", "2025-03-02", "-8", "1"),
        ("c", "NT01", "NON-TARGET", "", "2025-03-02", "-8", "1"),
        ("d", "NEW01", "NEW", "", "2025-06-01", "84", "2"),
        ("e", "NEW02", "NEW", "", "2025-09-01", "176", "3"),
    ]
    assert {(row["DOMAIN"], row["TUTESTCD"], row["TUMETHOD"]) for row in rows} == {("TU", "TUMIDENT", "CT SCAN")}


def test_results_of_a_time_point():
    rows = [row for row in read(tr(ENTRIES, TRIAL)) if row["VISITNUM"] == "2"]
    assert columns(rows, "TRGRPID", "TRLNKID", "TRTESTCD", "TRORRES", "TRSTRESC", "TRSTRESN", "TRSTRESU") == [
        ("TARGET", "T01", "LDIAM", "TOO SMALL TO MEASURE", "5", "5", "mm"),
        ("TARGET", "T02", "LPERP", "9", "9", "9", "mm"),
        ("NON-TARGET", "NT01", "TUMSTATE", "ABSENT", "ABSENT", "", ""),
        ("NEW", "NEW01", "TUMSTATE", "EQUIVOCAL", "EQUIVOCAL", "", ""),
        ("TARGET", "", "SUMDIAM", "14", "14", "14", "mm"),
        ("TARGET", "", "ACNSD", "-23.5", "-23.5", "-23.5", "mm"),
        ("TARGET", "", "PCBSD", "-62.6", "-62.6", "-62.6", "%"),
        ("TARGET", "", "PCNSD", "-62.6", "-62.6", "-62.6", "%"),
    ]
    assert {(row["TRLNKGRP"], row["VISIT"]) for row in rows} == {("A2", "WEEK 12")}


def test_what_was_not_evaluated_is_not_done_and_has_no_sum():
    rows = [row for row in read(tr(ENTRIES, TRIAL)) if row["VISITNUM"] == "3"]
    assert columns(rows, "TRLNKID", "TRORRES", "TRSTAT", "TRREASND") == [
        ("T01", "30", "", ""),
        ("T02", "", "NOT DONE", "NOT EVALUABLE"),
        ("NT01", "", "NOT DONE", "NOT EVALUABLE"),
        ("NEW02", "UNEQUIVOCAL", "", ""),
        ("NEW01", "EQUIVOCAL", "", ""),
    ]


def test_summaries_can_be_left_out():
    assert {row["TRTESTCD"] for row in read(tr(ENTRIES, TRIAL, summaries=False))} == {"LDIAM", "LPERP", "TUMSTATE"}


def test_responses():
    rows = read(rs(ENTRIES, TRIAL, immune_responses(ENTRIES)))
    assert columns(rows, "VISITNUM", "RSCAT", "RSTESTCD", "RSSTRESC", "RSLNKGRP") == [
        ("2", "RECIST 1.1", "TRGRESP", "PR", ""),
        ("2", "RECIST 1.1", "NTRGRESP", "CR", ""),
        ("2", "RECIST 1.1", "NEWLIND", "U", ""),
        ("2", "RECIST 1.1", "OVRLRESP", "PR", "A2"),
        ("2", "iRECIST", "OVRLRESP", "iPR", "A2"),
        ("3", "RECIST 1.1", "TRGRESP", "PD", ""),
        ("3", "RECIST 1.1", "NTRGRESP", "NE", ""),
        ("3", "RECIST 1.1", "NEWLIND", "Y", ""),
        ("3", "RECIST 1.1", "OVRLRESP", "PD", "A3"),
        ("3", "iRECIST", "OVRLRESP", "iUPD", "A3"),
    ]


def test_the_tables_fit_together():
    tables = {"TU": read(tu(ENTRIES, TRIAL)), "TR": read(tr(ENTRIES, TRIAL)), "RS": read(rs(ENTRIES, TRIAL))}
    for domain, rows in tables.items():
        assert [row[f"{domain}SEQ"] for row in rows] == [str(number) for number in range(1, len(rows) + 1)]
        assert {row["USUBJID"] for row in rows} == {"S1-001"}
    assert {row["TRLNKID"] for row in tables["TR"]} - {""} == {row["TULNKID"] for row in tables["TU"]}
    assert {row["RSLNKGRP"] for row in tables["RS"]} - {""} < {row["TRLNKGRP"] for row in tables["TR"]}
    for names in (TU_COLUMNS, TR_COLUMNS, RS_COLUMNS):
        assert all(len(name) <= 8 for name in names), "a variable's name has at most 8 letters"


def test_what_is_not_known_is_empty():
    undated = assess([TimePoint(None, (Target("a", 21),)), TimePoint(None, (Target("a", 21),))])
    assert columns(read(rs(undated, Trial("S1", "P1"))), "RSDTC", "RSDY")[0] == ("", "")
    assert columns(read(tu(ENTRIES, Trial("S1", "P1"))), "TUDY")[0] == ("",)


def test_no_spreadsheet_calculates_a_name():
    entries = assess([TimePoint(None, (Target("=1+1", 21, site="@x"),), label="-2")])
    assert columns(read(tu(entries, TRIAL)), "TUSPID", "TULOC", "VISIT") == [("'=1+1", "'@X", "'-2")]


@pytest.mark.parametrize("subject", ["", "=1+1", "-12", "a\nb"])
def test_an_identifier_that_is_none_is_refused(subject):
    with pytest.raises(Refusal, match="is no identifier"):
        Trial("S1", subject)
