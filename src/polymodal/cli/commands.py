"""The command line's commands, and its entry point."""

from __future__ import annotations

import logging
from collections.abc import Sequence

import cyclopts
from cyclopts import App

from polymodal.cli.data import check, fetch_help, miniature, unpack
from polymodal.cli.demo import demo
from polymodal.cli.fit import fit
from polymodal.cli.listing import list_
from polymodal.cli.prepare import prepare
from polymodal.cli.printing import Messages, say
from polymodal.cli.runs import diagnose, evaluate, predict, report
from polymodal.cli.sweep import sweep
from polymodal.cli.table import table
from polymodal.errors import InputError

__all__ = ["app", "main"]

app = App(
    name="polymodal",
    help="Train one model on several modalities so that none of them is starved by the others.",
    version_flags=["--version"],
)
data = App(name="data", help="Look into data before training.")

# A new command is a function in a file of this folder, imported above and named here.
for command in (fit, evaluate, predict, demo, report, diagnose, table, sweep):
    app.command(command)
for of_data in (check, prepare, fetch_help, miniature, unpack):
    data.command(of_data)
app.command(data)
app.command(list_, name="list")


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: exit code 0, 2 for bad input (with one message on standard error), 130 after Ctrl-C."""
    logger, handler = logging.getLogger("polymodal"), Messages()
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except InputError as error:
        say(f"polymodal: error: {error}")
        raise SystemExit(2) from None
    except cyclopts.CycloptsError as error:
        say(f"polymodal: error: {str(error).strip() or type(error).__name__}; see polymodal --help")
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except BrokenPipeError:
        raise SystemExit(0) from None
    finally:
        logger.removeHandler(handler)
