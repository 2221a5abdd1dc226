"""Prepares packaged data sets in a cache folder, once and whole.

A data set is built in a hidden folder beside its place and renamed when it is
complete, with a manifest of its files. A copy without manifest or with files that do
not agree with it is built again. A file lock lets one process build at a time; the
system frees it when a process dies, whatever the reason.
"""

import contextlib
import fcntl
import io
import json
import os
import shutil
import time
import zlib
from collections.abc import Generator
from pathlib import Path

import tensorflow_datasets as tfds

from experiments.data.progress import say

_MANIFEST = "manifest.json"
_ABSENT = "not there"


def folder(cache_dir: str = "") -> Path:
  """Returns `cache_dir`, or $ATTNJAX_DATA, or ~/.cache/attnjax."""
  chosen = cache_dir or os.environ.get("ATTNJAX_DATA") or "~/.cache/attnjax"
  return Path(chosen).expanduser().absolute()


def prepared(
  builder: type[tfds.core.GeneratorBasedBuilder], cache_dir: str
) -> tfds.core.DatasetBuilder:
  """Returns a builder whose files are in the cache folder and complete."""
  root = folder(cache_dir)
  configs = [config.name for config in builder.BUILDER_CONFIGS[:1]]
  home = root.joinpath(builder.name, *configs, str(builder.VERSION))
  if flaw(home):
    with lock(root, builder.name):
      found = flaw(home)  # another process may have built it meanwhile
      if found:
        _build(builder, root, home, found)
  return builder(data_dir=root, file_format="array_record")


def flaw(home: Path) -> str:
  """Says what is wrong with a prepared data set; empty if nothing is."""
  if not home.exists():
    return _ABSENT
  try:
    files = json.loads((home / _MANIFEST).read_text())
  except (OSError, ValueError):
    return f"{_MANIFEST} is missing or damaged"
  for name, (size, checksum) in files.items():
    path = home / name
    if not path.is_file():
      return f"{name} is missing"
    if path.stat().st_size != size:
      return f"{name} has {path.stat().st_size:,} bytes of {size:,}"
    if zlib.crc32(path.read_bytes()) != checksum:
      return f"{name} has another checksum than when it was written"
  return ""


@contextlib.contextmanager
def lock(root: Path, name: str) -> Generator[None]:
  """Holds the lock of a name in one process at a time; the others wait and say so."""
  root.mkdir(parents=True, exist_ok=True)
  with (root / f".{name}.lock").open("w") as file:
    try:
      fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
      say(f"{name}: another process is preparing it in {root}; waiting for it")
      fcntl.flock(file, fcntl.LOCK_EX)
    yield


def _build(builder, root: Path, home: Path, found: str) -> None:
  name, start = builder.name, time.monotonic()
  staging = root / f".{name}.preparing"
  if found != _ABSENT:
    say(f"{name}: the copy in {home} is damaged, {found}; preparing it anew")
  if staging.exists():
    say(f"{name}: an earlier preparation was cut off; starting anew")
    shutil.rmtree(staging)
  say(f"{name}: preparing it in {home}")
  try:
    with _quiet():
      made = builder(data_dir=staging, file_format="array_record")
      made.download_and_prepare()
    built = Path(made.data_dir)
    (built / _MANIFEST).write_text(json.dumps(_manifest(built), indent=1))
    if home.exists():
      shutil.rmtree(home)
    home.parent.mkdir(parents=True, exist_ok=True)
    built.rename(home)
  finally:
    shutil.rmtree(staging, ignore_errors=True)
  records = sum(split.num_examples for split in made.info.splits.values())
  say(f"{name}: {records:,} records in {time.monotonic() - start:.1f} s")


def _manifest(home: Path) -> dict[str, tuple[int, int]]:
  files = sorted(path for path in home.rglob("*") if path.is_file())
  return {
    path.relative_to(home).as_posix(): (
      path.stat().st_size,
      zlib.crc32(path.read_bytes()),
    )
    for path in files
  }


@contextlib.contextmanager
def _quiet() -> Generator[None]:
  """Silences the lines and bars of TFDS, which `say` and `track` replace."""
  tfds.display_progress_bar(False)
  try:
    with contextlib.redirect_stdout(io.StringIO()):
      yield
  finally:
    tfds.display_progress_bar(True)
