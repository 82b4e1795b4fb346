"""The one exception that polymodal raises for something its user can mend."""

__all__ = ["Diverged", "InputError"]


class InputError(ValueError):
    """Bad input: the message names the value, the place (file, row or key), what was expected and the remedy.

    The command line prints the message alone and ends with exit code 2.
    """


class Diverged(InputError):
    """Training or prediction with numbers that are not finite: a search counts it as a bad trial, and goes on."""
