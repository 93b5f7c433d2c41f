"""The follow-up of a patient as CDISC's tables for trials: tumours (TU), their results (TR) and the response (RS), as
CSV with the variables of the SDTM.

Only variables that are known are filled, with the terms of the SDTM Implementation Guide's examples for RECIST 1.1.
Summary results (SUMDIAM and the changes of it) are computed here; the guide wants them in TR only where the reader or
the independent assessor delivers them.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from LesionDetectorLib.followup.irecist import ImmuneResponse
from LesionDetectorLib.followup.response import Assessment, NewLesion, NonTarget, State, Target
from LesionDetectorLib.followup.wording import millimetres
from LesionDetectorLib.printable import printable
from LesionDetectorLib.refusal import Refusal

METHOD = "CT SCAN"
IDS = ("STUDYID", "DOMAIN", "USUBJID")
TU = (*IDS, "TUSEQ", "TUSPID", "TULNKID", "TUTESTCD", "TUTEST", "TUORRES", "TUSTRESC", "TULOC", "TUMETHOD", "TUEVAL")
TU_COLUMNS = (*TU, "VISITNUM", "VISIT", "TUDTC", "TUDY")
TR_WHAT = ("TRSEQ", "TRGRPID", "TRLNKGRP", "TRLNKID", "TRTESTCD", "TRTEST")
TR_RESULT = ("TRORRES", "TRORRESU", "TRSTRESC", "TRSTRESN", "TRSTRESU", "TRSTAT", "TRREASND")
TR_COLUMNS = (*IDS, *TR_WHAT, *TR_RESULT, "TRMETHOD", "TREVAL", "VISITNUM", "VISIT", "TRDTC", "TRDY")
RS_WHAT = ("RSSEQ", "RSLNKGRP", "RSTESTCD", "RSTEST", "RSCAT")
RS_COLUMNS = (*IDS, *RS_WHAT, "RSORRES", "RSSTRESC", "RSEVAL", "VISITNUM", "VISIT", "RSDTC", "RSDY")
TESTS = {
    "LDIAM": "Longest Diameter",
    "LPERP": "Longest Perpendicular",
    "TUMSTATE": "Tumor State",
    "SUMDIAM": "Sum of Diameter",
    "ACNSD": "Absolute Change Nadir in Sum of Diam",
    "PCBSD": "Percent Change Baseline in Sum of Diam",
    "PCNSD": "Percent Change Nadir in Sum of Diam",
    "TRGRESP": "Target Response",
    "NTRGRESP": "Non-target Response",
    "NEWLIND": "New Lesion Indicator",
    "OVRLRESP": "Overall Response",
}


@dataclass(frozen=True, slots=True)
class Trial:
    """Whom the tables are of: study, subject, who evaluated (TUEVAL and its like), and the first day of the treatment
    for the study days; without it they are left out.

    Raises Refusal for an identifier that a spreadsheet would calculate, or none.
    """

    study: str
    subject: str
    evaluator: str = "INVESTIGATOR"
    start: date | None = None

    def __post_init__(self) -> None:
        for value in (self.study, self.subject, self.evaluator):
            if not value or value[0] in "=+-@" or printable(value) != value:
                raise Refusal(f"'{printable(value)}' is no identifier; give one that begins with a letter or a digit.")

    def study_day(self, day: date | None) -> int | str:
        """The study day: 1 is the first day of the treatment, -1 the day before."""
        if day is None or self.start is None:
            return ""
        days = (day - self.start).days
        return days + 1 if days >= 0 else days


def tu(assessments: Sequence[Assessment], trial: Trial) -> str:
    """The table of tumours as CSV: every target, non-target and new lesion once, where it is first seen.

    TUSPID is the name that it has here. TULOC is the site in capitals; check it against the codelist LOC.
    """
    rows = []
    links = _links(assessments)
    for entry, lesion in _first_seen(assessments):
        group = _group(lesion)
        values = {
            "TUSPID": _text(lesion.name),
            "TULNKID": links[lesion.name],
            "TUTESTCD": "TUMIDENT",
            "TUTEST": "Tumor Identification",
            "TUORRES": group,
            "TUSTRESC": group,
            "TULOC": _text(lesion.site).upper(),
            "TUMETHOD": METHOD,
        }
        rows.append(values | _visit("TU", entry, trial))
    return _csv("TU", TU_COLUMNS, rows, trial)


def tr(assessments: Sequence[Assessment], trial: Trial, summaries: bool = True) -> str:
    """The table of results as CSV: diameters of targets (LDIAM, of nodes LPERP), states of the others (TUMSTATE), and
    with `summaries` the sums and their changes.

    A pending new lesion is EQUIVOCAL, one that counts UNEQUIVOCAL.
    """
    links = _links(assessments)
    rows: list[dict[str, object]] = []
    for entry in assessments:
        visit = _visit("TR", entry, trial)
        group = {"TRLNKGRP": _link_group(entry)}
        for lesion in entry.point.lesions:
            result = _diameter(lesion) if isinstance(lesion, Target) else _state(lesion, entry)
            what = {"TRGRPID": _group(lesion), "TRLNKID": links[lesion.name], "TRMETHOD": METHOD}
            rows.append(group | what | result | visit)
        if summaries:
            rows += [group | {"TRGRPID": "TARGET"} | result | visit for result in _summaries(entry)]
    return _csv("TR", TR_COLUMNS, rows, trial)


def rs(assessments: Sequence[Assessment], trial: Trial, immune: Sequence[ImmuneResponse] | None = None) -> str:
    """The table of responses as CSV: of targets, of non-targets, new lesions and overall; with `immune` the overall
    response of iRECIST too.

    The indicator of new lesions is U (unknown) while one is pending and none counts.
    """
    rows: list[dict[str, object]] = []
    for number, entry in enumerate(assessments[1:]):
        new = "Y" if entry.new_lesions else "U" if entry.pending else "N"
        responses = {"TRGRESP": entry.target, "NTRGRESP": entry.non_target, "NEWLIND": new, "OVRLRESP": entry.overall}
        found = [("RECIST 1.1", code, value) for code, value in responses.items() if value is not None]
        if immune is not None:
            found.append(("iRECIST", "OVRLRESP", immune[number].response))
        for category, code, value in found:
            what = {"RSTESTCD": code, "RSTEST": TESTS[code], "RSCAT": category, "RSORRES": value, "RSSTRESC": value}
            link = {"RSLNKGRP": _link_group(entry)} if code == "OVRLRESP" else {}
            rows.append(what | link | _visit("RS", entry, trial))
    return _csv("RS", RS_COLUMNS, rows, trial)


def _diameter(target: Target) -> dict[str, object]:
    code = "LPERP" if target.node else "LDIAM"
    what: dict[str, object] = {"TRTESTCD": code, "TRTEST": TESTS[code]}
    if target.tenths is None:
        return what | {"TRSTAT": "NOT DONE", "TRREASND": "NOT EVALUABLE"}
    counted = millimetres(target.tenths)
    found = "TOO SMALL TO MEASURE" if target.state is State.TOO_SMALL else counted
    return what | _result(found, counted, "mm")


def _state(lesion: NonTarget | NewLesion, entry: Assessment) -> dict[str, object]:
    what: dict[str, object] = {"TRTESTCD": "TUMSTATE", "TRTEST": TESTS["TUMSTATE"]}
    if isinstance(lesion, NewLesion):
        state = "UNEQUIVOCAL" if lesion in entry.new_lesions else "EQUIVOCAL"
    elif lesion.state is State.NOT_EVALUATED:
        return what | {"TRSTAT": "NOT DONE", "TRREASND": "NOT EVALUABLE"}
    else:
        state = "ABSENT" if lesion.state is State.ABSENT else "PRESENT"
    return what | {"TRORRES": state, "TRSTRESC": state}


def _summaries(entry: Assessment) -> Iterable[dict[str, object]]:
    """The sum of diameters and its changes; none where a target was not evaluated."""
    if entry.total is None:
        return
    yield _summary("SUMDIAM", millimetres(entry.total), "mm")
    if entry.number == 0:
        return
    yield _summary("ACNSD", _signed(entry.total - entry.nadir), "mm")
    yield _summary("PCBSD", _change(entry.total, entry.baseline), "%")
    if entry.nadir:
        yield _summary("PCNSD", _change(entry.total, entry.nadir), "%")


def _summary(code: str, value: str, unit: str) -> dict[str, object]:
    return {"TRTESTCD": code, "TRTEST": TESTS[code]} | _result(value, value, unit)


def _result(found: str, counted: str, unit: str) -> dict[str, object]:
    return {"TRORRES": found, "TRORRESU": unit, "TRSTRESC": counted, "TRSTRESN": counted, "TRSTRESU": unit}


def _signed(tenths: int) -> str:
    return f"{'-' if tenths < 0 else ''}{millimetres(abs(tenths))}"


def _change(now: int, before: int) -> str:
    """The change in per cent, cut after the tenth as in the text."""
    tenths = 1000 * abs(now - before) // before
    return _signed(-tenths if now < before else tenths)


def _visit(domain: str, entry: Assessment, trial: Trial) -> dict[str, object]:
    """The variables of a time point; its number is counted from 1, as the examples of the guide do."""
    day = entry.point.date
    name = entry.point.label or ("BASELINE" if entry.number == 0 else f"FOLLOW-UP {entry.number}")
    return {
        "VISITNUM": entry.number + 1,
        "VISIT": _text(name).upper(),
        f"{domain}EVAL": trial.evaluator,
        f"{domain}DTC": "" if day is None else day.isoformat()[:10],
        f"{domain}DY": trial.study_day(day),
    }


def _first_seen(
    assessments: Sequence[Assessment],
) -> Iterable[tuple[Assessment, Target | NonTarget | NewLesion]]:
    """The lesions of the baseline, then every new one at the time point that shows it first."""
    seen: set[str] = set()
    for entry in assessments:
        for lesion in entry.point.lesions:
            if lesion.name not in seen:
                yield entry, lesion
                seen.add(lesion.name)


def _links(assessments: Sequence[Assessment]) -> dict[str, str]:
    """TULNKID and TRLNKID of every lesion by its name: T01, NT01, NEW01."""
    counts = {"T": 0, "NT": 0, "NEW": 0}
    links = {}
    for _, lesion in _first_seen(assessments):
        kind = {"TARGET": "T", "NON-TARGET": "NT", "NEW": "NEW"}[_group(lesion)]
        counts[kind] += 1
        links[lesion.name] = f"{kind}{counts[kind]:02d}"
    return links


def _group(lesion: Target | NonTarget | NewLesion) -> str:
    return "TARGET" if isinstance(lesion, Target) else "NEW" if isinstance(lesion, NewLesion) else "NON-TARGET"


def _link_group(entry: Assessment) -> str:
    """What ties the results of a time point to its response: A1 for the baseline, A2 for the first after it."""
    return f"A{entry.number + 1}"


def _text(value: str) -> str:
    """A name as it may stand in a cell: no spreadsheet calculates it."""
    shown = printable(value)
    return f"'{shown}" if shown[:1] in ("=", "+", "-", "@") else shown


def _csv(domain: str, columns: Sequence[str], rows: Sequence[dict[str, object]], trial: Trial) -> str:
    file = io.StringIO()
    writer = csv.DictWriter(file, columns, restval="", lineterminator="\n")
    writer.writeheader()
    for number, row in enumerate(rows, start=1):
        ids = {"STUDYID": trial.study, "DOMAIN": domain, "USUBJID": trial.subject, f"{domain}SEQ": number}
        writer.writerow(ids | row)
    return file.getvalue()
