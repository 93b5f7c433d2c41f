"""The report of one evaluation as markdown tables for a reader."""

from __future__ import annotations

from collections.abc import Mapping

from train.measuring.statement import ALL_LABELS, OWN_LABEL

LABEL_COLUMNS = {
    ALL_LABELS: "FP of all labels",
    OWN_LABEL: "FP of that label",
    "sad_at_least_1_cm": "SAD >= 1 cm",
    "sad_below_1_cm": "SAD < 1 cm",
    "whatever_the_label": "whatever the label",
}


def markdown(result: dict, title: str, pictures: Mapping[str, str] | None = None) -> str:
    """The report as tables for a reader; `pictures` are file names with their captions."""
    rate, iou = f"{result['false_positives_per_image']:g}", f"{result['iou']:g}"
    reached = result["false_positives_per_image_of_all_detections"]
    intro = [
        f"{result['images']} slices of {result['patients']} patients, {result['lesions']} lesions"
        + (f" (and {result['ignored_lesions']} of unknown label, ignored)" if result["ignored_lesions"] else "")
        + f", {result['detections']} detections.",
        f"Sensitivity in % at {rate} false positives per image and IoU >= {iou} unless a table says otherwise; in "
        "brackets the 95 % "
        f"interval, from {result['bootstrap']['replicates']} bootstrap replicates over patients. Few lesions make "
        "wide intervals.",
    ]
    if reached < result["false_positives_per_image"]:
        intro.append(
            f"All detections together make only {reached:.2f} false positives per image: at higher rates nothing more "
            "is found."
        )
    parts = [f"# {title}", *intro]
    parts += [
        "## How it is counted",
        "\n".join(f"- {name.replace('_', ' ')}: {text}" for name, text in result["how_counted"].items()),
    ]
    parts += ["## By label", _label_table(result["by_label"])]
    parts += ["## By rate of false positives per image", _table("FP per image", _without_labels(result["by_rate"]))]
    parts += ["## By size, mean of the two diameters, mm", _table("mm", result["by_size_mm"])]
    parts += ["## By IoU limit", _table("IoU >=", _without_labels(result["by_iou"]))]
    parts += ["## Average precision, %", _precision_table(result["average_precision"])]
    parts += [
        f"## Which label is detected, at {rate} false positives per image whatever the label",
        _confusion_table(result["confusion"]),
    ]
    parts += [f"{caption}:\n\n![{caption}]({name})" for name, caption in (pictures or {}).items()]
    return "\n\n".join(parts) + "\n"


def _label_table(by_label: dict[str, dict]) -> str:
    rows = []
    for name, columns in by_label.items():
        strata = [_cell(columns.get(column), lesions=column.startswith("sad")) for column in LABEL_COLUMNS]
        rows.append([name, str(columns[ALL_LABELS]["lesions"]), *strata])
    return markdown_table(["label", "lesions", *LABEL_COLUMNS.values()], rows)


def _table(first: str, entries: dict[str, dict]) -> str:
    """One row an entry: how many lesions, where the entry says so, and each of its columns."""
    columns = list(dict.fromkeys(column for row in entries.values() for column in row))
    rows = [[name, *(_cell(row.get(column)) for column in columns)] for name, row in entries.items()]
    lesions = [
        next((str(cell["lesions"]) for cell in row.values() if isinstance(cell, dict)), "0") for row in entries.values()
    ]
    titles = [column.replace("_", " ") for column in columns]
    if set(lesions) <= {"0"}:
        return markdown_table([first, *titles], rows)
    return markdown_table([first, "lesions", *titles], [[row[0], count, *row[1:]] for row, count in zip(rows, lesions)])


def _without_labels(entries: dict[str, dict]) -> dict[str, dict]:
    return {
        name: {column: cell for column, cell in row.items() if column != "by_label"} for name, row in entries.items()
    }


def _cell(cell: dict | float | None, lesions: bool = False) -> str:
    if cell is None:
        return "-"
    if not isinstance(cell, dict):
        return percent(cell)
    text = percent(cell["sensitivity"])
    if cell.get("interval_95"):
        text += " ({} to {})".format(*map(percent, cell["interval_95"]))
    return f"{text}, n = {cell['lesions']}" if lesions else text


def percent(value: float | None) -> str:
    """A share in per cent, "-" where there is none."""
    return "-" if value is None or value != value else f"{100 * value:.1f}"


def _precision_table(entries: dict) -> str:
    limits = [name for name in entries if name != "how_counted"]
    labels = entries[limits[0]]
    table = markdown_table(
        ["label", *(f"IoU >= {limit}" for limit in limits)],
        [[name, *(percent(entries[limit].get(name)) for limit in limits)] for name in labels],
    )
    return f"{table}\n\n{entries['how_counted']}."


def _confusion_table(entries: dict) -> str:
    return markdown_table(
        ["lesions of", *entries["columns"]], [[name, *map(str, row)] for name, row in entries["rows"].items()]
    )


def markdown_table(head: list[str], rows: list[list[str]]) -> str:
    """A table in markdown."""
    rule = ["---"] * len(head)
    return "\n".join(f"| {' | '.join(row)} |" for row in (head, rule, *rows))
