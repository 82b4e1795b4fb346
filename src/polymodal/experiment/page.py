"""A table as a page: measured beside published with bars, and curves over a setting, calibration and agreement of its runs."""

from __future__ import annotations

from polymodal.analysis.reports.estimates import Estimate
from polymodal.analysis.reports.figures import Bar, Series, bars, lines
from polymodal.analysis.reports.html import Markup, Section, card, figure, grid, page, paragraph, section, table
from polymodal.experiment.drawings import drawings
from polymodal.experiment.results import MINI, READING, Line, Results
from polymodal.run import write_atomically

__all__ = ["page_of", "write"]


def write(results: Results) -> None:
    """Write a table's NAME.md, NAME.csv and NAME.html into its folder."""
    files = {
        results.markdown: results.text(),
        results.out / f"{results.name}.csv": results.csv(),
        results.page: page_of(results),
    }
    for path, text in files.items():
        with write_atomically(path) as temporary:
            temporary.write_text(text, encoding="utf-8")


def page_of(results: Results) -> str:
    """One self-contained HTML page."""
    experiment = results.experiment
    lead = [paragraph(MINI.replace("**", ""), "headline")] if results.mini else []
    lead += [paragraph(experiment.note.strip())] if experiment.note else []
    sections = [_set(results, place, data) for place, data in enumerate(results.sets)]
    sections += drawings(results)
    about = f"{experiment.paper}, {experiment.table}"
    return page(
        experiment.title, about, Markup(f'<div class="lead">{"".join([*lead, paragraph(READING)])}</div>'), sections
    )


def _set(results: Results, place: int, data: str) -> Section:
    head, rows = results.grid(data)
    parts: list[Markup] = [card("Measured and published", table(f"Figures on {data}", head, rows))]
    found = results.of(data)
    drawn = [
        one
        for number, metric in enumerate(dict.fromkeys(line.metric for line in found))
        for one in (_bars(results, f"set{place}-{number}", metric, [line for line in found if line.metric == metric]),)
        if one is not None
    ]
    over = _curve(results, f"set{place}-curve", found)
    shown = [*drawn, *([over] if over is not None else [])]
    return section(f"set{place}", data or "All", data or "All", *parts, *([grid(*shown)] if shown else []))


def _bars(results: Results, name: str, metric: str, found: list[Line]) -> Markup | None:
    """Measured figures with a standard deviation over seeds, marks at the published ones."""
    kept = [line for line in found if line.measured.values and line.row.measure != "fact"]
    if not kept:
        return None
    rows = []
    for line in kept:
        deviation = line.measured.deviation
        estimate = Estimate(line.measured.mean, None if deviation != deviation else deviation)
        rows.append(Bar(line.row.label, estimate, 0, {} if line.published is None else {1: line.published}))
    marked = any(row.marks for row in rows)
    drawing = bars(name, f"{metric} by row", rows, metric, marks={1: "published"} if marked else None)
    text = "Bars are means over seeds, whiskers one standard deviation" + (
        ", squares what the paper prints." if marked else "."
    )
    values = [[line.row.label, line.published, line.measured.mean, line.measured.deviation] for line in kept]
    return figure(metric, drawing, text, table(metric, ["row", "published", "measured", "deviation"], values))


def _curve(results: Results, name: str, found: list[Line]) -> Markup | None:
    """Figures over the setting that the file names under `over`."""
    setting = results.experiment.over
    if setting is None:
        return None
    points: dict[str, list[tuple[float, float]]] = {}
    for line in found:
        x = _value(line.row.settings or {}, setting)
        if x is not None and line.measured.values:
            points.setdefault(f"{line.metric}, measured", []).append((x, line.measured.mean))
            if line.published is not None:
                points.setdefault(f"{line.metric}, published", []).append((x, line.published))
    kept = {label: sorted(one) for label, one in points.items() if len({x for x, _ in one}) > 1}
    if not kept:
        return None
    series = [Series(label, [x for x, _ in one], [y for _, y in one], i) for i, (label, one) in enumerate(kept.items())]
    drawing = lines(name, f"Figures over {setting}", series, "", x_label=setting, log_x=True)
    rows = [[label, x, y] for label, one in kept.items() for x, y in one]
    return figure(
        f"Over {setting}", drawing, "Means over seeds.", table(f"Over {setting}", ["figure", setting, "value"], rows)
    )


def _value(settings: object, path: str) -> float | None:
    for key in path.split("."):
        if not isinstance(settings, dict) or key not in settings:
            return None
        settings = settings[key]
    return float(settings) if isinstance(settings, (int, float)) else None
