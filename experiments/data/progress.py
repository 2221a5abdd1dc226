"""Lines and progress bars on the standard error stream."""

import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator, Sequence

_SECONDS = 5.0  # between two plain lines


def say(line: str) -> None:
  """Prints one line to stderr at once."""
  print(line, file=sys.stderr, flush=True)


def track[T](items: Sequence[T], label: str) -> Iterable[T]:
  """Iterates over items, with a bar on a terminal, else a line every few seconds."""
  if sys.stderr.isatty() and importlib.util.find_spec("rich"):
    return _bar(items, label)
  return _lines(items, label)


def _bar[T](items: Sequence[T], label: str) -> Iterator[T]:
  from rich.console import Console
  from rich.progress import track as rich_track

  console = Console(stderr=True)
  yield from rich_track(items, label, len(items), console=console, transient=True)


def _lines[T](items: Sequence[T], label: str) -> Iterator[T]:
  last = time.monotonic()
  for done, item in enumerate(items):
    yield item
    if time.monotonic() - last > _SECONDS:
      last = time.monotonic()
      say(f"{label}: {done + 1:,} of {len(items):,}")
