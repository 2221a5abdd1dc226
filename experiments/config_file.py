"""Config programs, run for the flag --config."""

import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from absl import flags
from ml_collections import ConfigDict

from experiments.errors import UserError, one_line


class Parser(flags.ArgumentParser):
  """Reads `path.py` or `path.py:argument`: the config that `get_config` returns.

  Whatever goes wrong is a UserError that names the file: absl would put ml_collections'
  traceback, with all its lines, into its own message.

  Attributes:
    change: what else is done to the config before its values are overridden.
  """

  def __init__(self, change: Callable[[ConfigDict], ConfigDict]):
    self.change = change

  def parse(self, argument: str) -> ConfigDict:
    """Returns the config that the argument names, changed and locked."""
    return self.change(read(argument)).lock()


def read(path: str) -> ConfigDict:
  """Returns the config of `path.py` or `path.py:argument`.

  Raises:
    UserError: if the file is missing or fails, or `get_config` returns no ConfigDict.
  """
  file, colon, argument = path.partition(":")
  if not file:
    raise UserError("--config is empty; for example --config configs/lm.py")
  if colon and not argument.strip():
    raise UserError(f"--config {path}: nothing follows the colon")
  try:
    config = _run(file).get_config(*([argument] if colon else []))
  except UserError as error:
    raise UserError(f"config {path}: {error}") from error
  except FileNotFoundError as error:
    if error.filename != file:
      raise UserError(_message(path, file, error)) from error
    raise UserError(f"config file {file} is not there") from None
  except OSError as error:
    raise UserError(f"config {path}: {one_line(error)}") from error
  except (Exception, SystemExit) as error:  # whatever the program raises
    raise UserError(_message(path, file, error)) from error
  if not isinstance(config, ConfigDict):
    raise UserError(
      f"config {path}: get_config returns {type(config).__name__}, not a ConfigDict"
    )
  return config


def _run(file: str) -> ModuleType:
  code = compile(Path(file).read_bytes(), file, "exec")
  module = ModuleType("config_program")
  module.__file__ = file
  sys.modules[module.__name__] = module  # where dataclasses look for their types
  exec(code, module.__dict__)
  return module


def _message(path: str, file: str, error: BaseException) -> str:
  """Says what was raised, and by which line of the program."""
  frames = traceback.extract_tb(error.__traceback__)
  lines = [frame.lineno for frame in frames if frame.filename == file]
  where = f" (line {lines[-1]} of {file})" if lines else ""
  return f"config {path}: {one_line(error)}{where}"
