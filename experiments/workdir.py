"""The folder of a run and the config that it belongs to."""

import json
from pathlib import Path

import jax
from ml_collections import ConfigDict

from experiments import settings
from experiments.errors import UserError


def claim(workdir: Path, config: dict, *, force: bool) -> None:
  """Makes a workdir this config's own.

  Raises:
    UserError: if it holds another config, unless `force`; the message has the
      differences.
  """
  path = Path(workdir) / "config.json"
  if path.exists():
    held = settings.to_json(load(workdir))
    changes = difference(held, config)
    if changes and not force:
      raise UserError(
        f"{workdir} holds a run of another config ({'; '.join(changes)});"
        " --resume=force goes on with the new one, or choose another --workdir"
      )
  if jax.process_index() == 0:
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_suffix(".new")
    temporary.write_text(json.dumps(config, indent=2) + "\n")
    temporary.replace(path)


def difference(old: dict, new: dict, prefix: str = "") -> list[str]:
  """`name: old -> new` for all values that differ between two nested dicts."""
  found = []
  for key in sorted(old.keys() | new.keys()):
    a, b = old.get(key, "(none)"), new.get(key, "(none)")
    if isinstance(a, dict) and isinstance(b, dict):
      found += difference(a, b, f"{prefix}{key}.")
    elif a != b:
      found.append(f"{prefix}{key}: {a} -> {b}")
  return found


def load(workdir: Path) -> ConfigDict:
  """The config of a saved run.

  Raises:
    UserError: if the folder holds no run.
  """
  path = Path(workdir) / "config.json"
  try:
    return ConfigDict(json.loads(path.read_text()))
  except FileNotFoundError:
    raise UserError(f"{workdir} holds no run: it has no config.json") from None
  except json.JSONDecodeError as error:
    raise UserError(f"{path} cannot be read: {error}") from None
