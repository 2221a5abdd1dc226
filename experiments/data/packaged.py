"""Data files that travel inside Python packages."""

import importlib.util
from pathlib import Path


def find(package: str, path: str, *, install: str) -> Path:
  """The file at `path` in an installed package, which is not imported.

  Raises:
    FileNotFoundError: naming what to install, if it is not there.
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
