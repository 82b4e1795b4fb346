"""Pictures and tables of finished runs: one self-contained page a run, and one that compares runs.

`record` reads a run's folder, `estimates` computes figures with their errors and `findings` says them, `svg` and `figures` draw,
`html` writes elements, `training`, `errors` and `samples` make parts of a page, `single` and `several` the two pages.
"""

from polymodal.analysis.reports.several import compare
from polymodal.analysis.reports.single import report

__all__ = ["compare", "report"]
