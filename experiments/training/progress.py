"""The progress of a run: a bar on a terminal, plain lines otherwise."""

import importlib.util
import os
import sys
import time
from collections.abc import Callable
from typing import Any

from experiments.pages import readable

# Not shown: the bar has the time left, and the learning rate is in the report.
_HIDDEN = ("rate", "seconds")


class Progress:
  """Shows step, loss, metrics, speed and time left; a context.

  The bar is drawn by the calls of `update` alone, without a thread, so that nothing
  is left behind after an interrupt.

  Args:
    total: steps of the whole run.
    start: steps already done.
    unit: what a `..._per_second` number counts: "tokens", "examples".
    every: a plain line is printed each so many steps, and after `seconds` without one.
    seconds: see `every`; 0 steps means by the seconds only.
    terminal: True draws the bar, False prints lines; None finds out from stdout.
    clock: seconds, monotonic.
  """

  def __init__(
    self,
    total: int,
    start: int = 0,
    unit: str = "tokens",
    *,
    every: int = 0,
    seconds: float = 10.0,
    terminal: bool | None = None,
    clock: Callable[[], float] = time.monotonic,
  ):
    self.total, self.step, self.unit = total, start, unit
    self.every, self.seconds, self.clock = every, seconds, clock
    self.numbers: dict[str, Any] = {}
    self._first: tuple[int, float] | None = None
    self._shown: tuple[int, float] | None = None
    terminal = _is_terminal() if terminal is None else terminal
    self._bar = _bar() if terminal else None
    self._task: Any = None

  def __enter__(self) -> "Progress":
    if self._bar is not None:
      try:
        self._bar.start()
        self._task = self._bar.add_task("", total=self.total, completed=self.step)
        self._bar.refresh()
      except BaseException:  # an interrupt here would leave the cursor hidden
        self._bar.stop()
        raise
    return self

  def __exit__(self, *error) -> None:
    if self._bar is not None:
      try:
        self._bar.refresh()
      finally:
        self._bar.stop()

  def update(self, step: int, **numbers: Any) -> None:
    """Shows that `step` updates are done; numbers not given keep their last value."""
    now = self.clock()
    self.step = step
    self.numbers |= numbers
    # The first step is mostly compilation: it says nothing about the rest.
    self._first = self._first or (step, now)
    if self._bar is None:
      if self._due(now):
        self._shown = step, now
        print("  ".join([f"step {step:,}/{self.total:,}", *self._words(now)]))
        sys.stdout.flush()
      return
    # Drawing takes about a millisecond: ten times a second is enough.
    self._bar.update(self._task, completed=step, description=self._describe(now))
    if self._shown is None or now - self._shown[1] >= 0.1 or step >= self.total:
      self._shown = step, now
      self._bar.refresh()

  def say(self, text: str) -> None:
    """Prints a line, above the bar if there is one."""
    if self._bar is None:
      print(text, flush=True)
    else:
      self._bar.console.print(text, markup=False, highlight=False)

  def _due(self, now: float) -> bool:
    if self._shown is None or self.step >= self.total:
      return True
    step, then = self._shown
    passed = self.every and self.step // self.every > step // self.every
    return bool(passed) or now - then >= self.seconds

  def _describe(self, now: float) -> str:
    return "  ".join(self._words(now))

  def _words(self, now: float) -> list[str]:
    words = []
    for name, value in self.numbers.items():
      if name in _HIDDEN:
        continue
      if name.endswith("_per_second"):
        words.append(f"{readable.count(float(value))} {self.unit}/s")
      elif "_per_" in name:
        words.append(f"{_short(value)} {readable.name(name)}")
      else:
        words.append(f"{readable.name(name)} {_short(value)}")
    left = self._left(now)
    return words if left is None else [*words, f"left {readable.duration(left)}"]

  def _left(self, now: float) -> float | None:
    """Estimates the seconds to the end by the mean speed since the first step."""
    if self._first is None or self.step <= self._first[0] or self.step >= self.total:
      return None
    step, then = self._first
    # Whole seconds: finer ones only flicker.
    return max(1, round((self.total - self.step) * (now - then) / (self.step - step)))


def _short(value: Any) -> str:
  return f"{float(value):.3g}"


def _is_terminal() -> bool:
  return (
    sys.stdout.isatty()
    and os.environ.get("TERM") != "dumb"
    and importlib.util.find_spec("rich") is not None
  )


def _bar():
  from rich import console, progress

  return progress.Progress(
    progress.TextColumn("step {task.completed:,}/{task.total:,}"),
    progress.BarColumn(bar_width=None),
    progress.TextColumn("{task.description}", markup=False),
    auto_refresh=False,
    console=console.Console(force_terminal=True),
  )
