"""Finds damaged checkpoints: those whose files are not what was saved.

A checkpoint's `files.json` holds the size of each file, and the checksum of the small
ones. It tells a damaged checkpoint from one that only cannot be read, by another config
or while a disk does not answer, and must not be dropped.
"""

import json
import zlib
from pathlib import Path
from typing import Any

_FILE = "files.json"
_SMALL = 2**20  # bytes: descriptions are smaller, arrays may be larger


def record(folder: Path) -> None:
  """Records the files of a checkpoint that has been saved."""
  path = folder / _FILE
  temporary = path.with_suffix(".new")
  temporary.write_text(json.dumps(_files(folder), indent=0) + "\n", encoding="utf-8")
  temporary.replace(path)


def find(folder: Path) -> str:
  """Says how a checkpoint is damaged; "" if it is whole, as far as its record tells."""
  if not (folder / "state").is_dir():
    return "it holds no state"
  try:
    wanted = json.loads((folder / _FILE).read_text(encoding="utf-8"))
    items = dict(wanted).items()
  except (FileNotFoundError, ValueError, TypeError):
    # The run was killed between save and record, or is older than records are.
    empty = [name for name, (size, _) in _files(folder).items() if not size]
    return f"{empty[0]} is empty" if empty else ""
  held = _files(folder)
  for name, (size, check) in items:
    if name not in held:
      return f"{name} is missing"
    if held[name][0] != size:
      return f"{name} has {held[name][0]} bytes of {size}"
    if held[name][1] != check:
      return f"{name} is not what was saved"
  return ""


def _files(folder: Path) -> dict[str, list[Any]]:
  """Returns {name: [size, checksum or None]} of the files that a restart reads."""
  found: dict[str, list[Any]] = {}
  for part in ("state", "data"):
    for path in sorted((folder / part).rglob("*")):
      # Orbax's mark of a finished save is not looked at again.
      if path.is_file() and path.name != "commit_success.txt":
        size = path.stat().st_size
        check = zlib.crc32(path.read_bytes()) if size < _SMALL else None
        found[path.relative_to(folder).as_posix()] = [size, check]
  return found
