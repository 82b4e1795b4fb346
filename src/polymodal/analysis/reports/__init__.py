"""Pictures and tables of finished runs: one self-contained page a run, and one that compares runs.

`record` reads a run's folder, `findings` computes what is said about it, `svg` and `figures` draw, `samples` shows the worst
errors, `html` writes elements, and `single` and `several` put the two pages together.
"""

from polymodal.analysis.reports.several import compare
from polymodal.analysis.reports.single import report

__all__ = ["compare", "report"]
