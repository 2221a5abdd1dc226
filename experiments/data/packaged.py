"""Data files that travel inside Python packages."""

import importlib.util
from pathlib import Path


def find(package: str, path: str, *, install: str) -> Path:
  """Finds the file at `path` in an installed package, without importing it.

  Raises:
    FileNotFoundError: if it is not there; the message says what to install.
  """
  spec = importlib.util.find_spec(package)
  folders = spec.submodule_search_locations if spec else None
  for folder in folders or ():
    if (Path(folder) / path).is_file():
      return Path(folder) / path
  raise FileNotFoundError(
    f"{package}/{path} is not installed: pip install '{install}' (part of the extra"
    " `data`)"
  )
