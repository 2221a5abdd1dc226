"""Errors that are the user's to mend: one line and exit status 2, no traceback."""

import sys
from collections.abc import Callable
from typing import Any


class UserError(Exception):
  """What was asked cannot be done; the message says which value, and the rule."""


def guard(main: Callable[..., Any], *arguments) -> int:
  """Runs `main(*arguments)` and returns the program's exit status.

  It is 2 after a `UserError`, whose message then is one line on stderr; otherwise what
  `main` returns if that is an int, else 0. Other exceptions pass: they are bugs, and
  their traceback is wanted.

    if __name__ == "__main__":
      sys.exit(errors.guard(main))
  """
  try:
    status = main(*arguments)
  except UserError as error:
    print("error:", " ".join(str(error).split()), file=sys.stderr)
    return 2
  return status if isinstance(status, int) else 0
