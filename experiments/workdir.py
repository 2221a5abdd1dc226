"""The folder of a run and the config that it belongs to."""

import copy
import json
from pathlib import Path

import jax
from ml_collections import ConfigDict

from experiments import checks, configuration
from experiments.errors import UserError


def changes(workdir: Path, config: dict, *, force: bool) -> list[str]:
  """Returns how the config differs from that of the workdir's run; [] if it has none.

  Raises:
    UserError: if they differ, unless `force`; the message has the differences.
  """
  if not _path(workdir).exists():
    return []
  found = difference(configuration.to_json(load(workdir)), config)
  if found and not force:
    raise UserError(
      f"{workdir} holds a run of another config ({'; '.join(found)});"
      " --resume=force goes on with the new one, or choose another --workdir"
    )
  return found


def claim(workdir: Path, config: dict) -> None:
  """Writes the config to the workdir, which then belongs to it."""
  if jax.process_index():
    return
  path = _path(workdir)
  path.parent.mkdir(parents=True, exist_ok=True)
  temporary = path.with_suffix(".new")
  temporary.write_text(json.dumps(config, indent=2) + "\n")
  temporary.replace(path)


def difference(old: dict, new: dict, prefix: str = "") -> list[str]:
  """Returns `name: old -> new` for all values that differ between two nested dicts."""
  found = []
  for key in sorted(old.keys() | new.keys()):
    a, b = old.get(key, "(none)"), new.get(key, "(none)")
    if isinstance(a, dict) and isinstance(b, dict):
      found += difference(a, b, f"{prefix}{key}.")
    elif a != b:
      found.append(f"{prefix}{key}: {a} -> {b}")
  return found


def load(workdir: Path) -> ConfigDict:
  """Loads the config of a saved run.

  Raises:
    UserError: if the folder holds no run, or its config is damaged.
  """
  path = _path(workdir)
  try:
    held = json.loads(path.read_text(encoding="utf-8"))
    if not isinstance(held, dict):
      raise ValueError(
        f"it holds a {type(held).__name__}, not the sections of a config"
      )
    config = ConfigDict(copy.deepcopy(checks.TRAINER) | held)  # of an older version
    checks.check(config)
  except (FileNotFoundError, NotADirectoryError):
    raise UserError(f"{workdir} holds no run: it has no config.json") from None
  except ValueError as error:
    raise UserError(f"{path} cannot be read: {error}") from None
  return config


def _path(workdir: Path) -> Path:
  return Path(workdir) / "config.json"
