"""Errors that are the user's to mend: one line and exit status 2, no traceback."""

import contextlib
import errno
import os
import sys
from collections.abc import Callable
from typing import Any

REFUSED, INTERRUPTED, CLOSED = 2, 128 + 2, 128 + 13  # as shells have them

# Errors of files and disks, not of the program.
_OF_FILES = frozenset(
  getattr(errno, name)
  for name in (
    "ENOENT EACCES EPERM EROFS ENOTDIR EISDIR EEXIST ENAMETOOLONG ELOOP "
    "ENOSPC EDQUOT EFBIG EIO ESTALE"
  ).split()
)


class UserError(Exception):
  """A request that cannot be fulfilled; the message names the value and the rule."""


def guard(main: Callable[..., Any], *arguments) -> int:
  """Runs `main(*arguments)` and returns the program's exit status.

  It is 2 after a `UserError` and after an error of a file or of the disk, whose message
  then is one line on stderr; 130 after Ctrl-C; 141, without a word, if nobody reads
  stdout any more; otherwise what `main` returns if that is an int, else 0. Other
  exceptions pass: they are bugs, and their traceback is wanted.

    if __name__ == "__main__":
      sys.exit(errors.guard(main))
  """
  _print_anything(sys.stdout)
  try:
    status = _guarded(main, arguments)
    sys.stdout.flush()
  except BrokenPipeError:
    # Python flushes once more when it ends, and would say that it cannot.
    with contextlib.suppress(OSError, ValueError):
      os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return CLOSED
  return status if isinstance(status, int) else 0


def one_line(error: BaseException) -> str:
  """Formats an error on one line: its message, after the class of unexpected ones."""
  if isinstance(error, OSError) and error.strerror:
    name = "" if error.filename is None else f"{os.fsdecode(error.filename)!r}: "
    return name + error.strerror
  words = " ".join(str(error).split())
  # The message of a KeyError is only the key.
  known = isinstance(error, (UserError, ValueError, NotImplementedError))
  return words if words and known else f"{type(error).__name__}: {words}".rstrip(": ")


def _guarded(main, arguments):
  try:
    return main(*arguments)
  except UserError as error:
    return _refuse(error)
  except OSError as error:
    if error.errno not in _OF_FILES:
      raise
    return _refuse(error)
  except KeyboardInterrupt:
    print("interrupted", file=sys.stderr)
    return INTERRUPTED


def _refuse(error):
  print("error:", one_line(error), file=sys.stderr)
  return REFUSED


def _print_anything(stream):
  """Makes a stream escape characters that its encoding lacks, instead of raising."""
  with contextlib.suppress(AttributeError, ValueError):
    stream.reconfigure(errors="backslashreplace")
