"""The log of a run: `metrics.jsonl` and the scalars of TensorBoard.

A line of metrics.jsonl is one JSON object: step, split ("train", "validation" or
"test") and numbers by name, among them seconds (since the log was opened, if the
writer gives none). Floats have all their digits, so that two runs can be compared bit
by bit; what is not finite is written as Python writes it: NaN, Infinity, -Infinity.
"""

import json
import os
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from experiments.errors import UserError

FILE, BOARD = "metrics.jsonl", "tensorboard"


class Log:
  """Writes the lines of a run that starts, or goes on, at `start_step`; a context.

  On opening, metrics.jsonl is cut to the lines with step <= start_step, since a run
  that goes on from a checkpoint writes the later ones again.

  Args:
    workdir: the run's folder; it is made if it is not there.
    start_step: updates already done: 0, or the step of the checkpoint.
    say: prints the one line that tensorboardX is not installed.

  Raises:
    UserError: if a line of the file, other than a half-written last one, is not JSON.
  """

  def __init__(
    self,
    workdir: str | os.PathLike,
    start_step: int = 0,
    say: Callable[[str], None] = print,
  ):
    self.workdir, self.start_step, self._say = Path(workdir), start_step, say

  def __enter__(self) -> "Log":
    self.workdir.mkdir(parents=True, exist_ok=True)
    path = self.workdir / FILE
    if path.exists():
      _cut(path, self.start_step)
    self._board = _board(self.workdir / BOARD, self.start_step, self._say)
    self._file = path.open("a", encoding="utf-8")
    self._start = time.monotonic()
    return self

  def __exit__(self, *error) -> None:
    self._file.close()
    if self._board is not None:
      self._board.close()

  def write(self, step: int, split: str, **numbers: Any) -> None:
    """Appends a line and flushes it; numbers may be arrays of one element."""
    plain = {name: _plain(value) for name, value in numbers.items()}
    plain.setdefault("seconds", time.monotonic() - self._start)
    line = json.dumps({"step": int(step), "split": split, **plain})
    self._file.write(line + "\n")
    self._file.flush()
    if self._board is not None:
      for name, value in plain.items():
        self._board.add_scalar(f"{split}/{name}", value, step)


def read(workdir: str | os.PathLike) -> list[dict[str, Any]]:
  """Returns the lines of a run's metrics.jsonl, without a half-written last one.

  The list is empty if there is no such file. Raises UserError if another line is not a
  JSON object with a step and a split.
  """
  path = Path(workdir) / FILE
  return _lines(path) if path.exists() else []


def _lines(path: Path) -> list[dict[str, Any]]:
  texts = path.read_text(encoding="utf-8", errors="replace").splitlines()
  records = []
  for number, text in enumerate(texts, start=1):
    try:
      record = json.loads(text)
      if not isinstance(record["step"], int) or not isinstance(record["split"], str):
        raise TypeError
    except (ValueError, TypeError, KeyError):
      if number == len(texts):
        break  # the writer was killed, or is writing it now
      raise UserError(
        f"{path}, line {number}: {text[:60]!r} is no JSON object with step and split"
      ) from None
    records.append(record)
  return records


def _cut(path: Path, last: int) -> None:
  """Keeps the lines up to step `last`; the file is the old or the new, never a part."""
  kept = [json.dumps(line) + "\n" for line in _lines(path) if line["step"] <= last]
  temporary = path.with_name(path.name + ".new")
  with temporary.open("w", encoding="utf-8") as file:
    file.writelines(kept)
    file.flush()
    os.fsync(file.fileno())
  temporary.replace(path)


def _board(folder: Path, start_step: int, say: Callable[[str], None]):
  try:
    from tensorboardX import SummaryWriter
  except ImportError:
    say(f"tensorboardX is not installed: the numbers go to {FILE} only")
    return None
  earlier = folder.exists() and any(folder.iterdir())
  return SummaryWriter(str(folder), purge_step=start_step + 1 if earlier else None)


def _plain(value: Any) -> int | float:
  if hasattr(value, "item"):
    value = value.item()
  return value if isinstance(value, int) else float(value)
