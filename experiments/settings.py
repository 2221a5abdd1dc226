"""The config of a run: its sections with their defaults, and its flags.

A config file makes one with `default(...)` and changes what it is about. Every default
can be overridden as `--config.section.name=value`; none is None, since ml_collections
would not know its type.
"""

import copy
import importlib
import inspect
import json
import sys
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, config_flags

from attnjax import contract
from experiments import checks, config_file, data
from experiments.errors import UserError


def default(mechanisms: str, *, host: str, dataset: str) -> ConfigDict:
  """Returns a whole config with its defaults.

  Args:
    mechanisms: a slug, or several with commas between: the pattern in which the layers
      repeat. The Layer's own defaults become `config.attention`; with several slugs
      there is one section for each, `config.attention.<slug>`.
    host: a module of attnjax.models.
    dataset: a data set of experiments.data.
  """
  slugs = split(mechanisms)
  sections = {slug: ConfigDict(contract.defaults(slug)) for slug in slugs}
  return ConfigDict(
    {
      **copy.deepcopy(checks.TRAINER),
      "host": host,
      "mechanism": mechanisms,
      "model": host_defaults(host),
      "attention": sections[slugs[0]] if len(sections) == 1 else sections,
      "data": {"name": dataset, "batch": 16} | data.defaults(dataset),
    }
  )


def split(mechanisms: str) -> list[str]:
  """Splits a pattern into slugs; loads each, so that an unknown one is an error."""
  slugs = [slug.strip() for slug in mechanisms.split(",")]
  for slug in slugs:
    contract.load(slug)
  return slugs


def host_module(host: str):
  """Imports a module of attnjax.models by name; ValueError if there is none."""
  try:
    return importlib.import_module(f"attnjax.models.{host}")
  except ModuleNotFoundError as error:
    raise ValueError(
      f"unknown host {host!r}: no module attnjax.models.{host}"
    ) from error


def host_defaults(host: str) -> dict[str, Any]:
  """Returns the hyper-parameters of a host with their defaults."""
  module = host_module(host)
  parameters = inspect.signature(module.Model.__init__).parameters.values()
  # Arguments of its constructor that come from the task or the trainer.
  others = {"self", "builds", "rngs", *module.SIZES}
  return {p.name: p.default for p in parameters if p.name not in others}


def where_present(config: ConfigDict, **options: Any) -> None:
  """Sets options of the mechanisms in `config.attention` that have them."""
  sections = [config.attention, *config.attention.values()]
  for section in sections:
    if isinstance(section, ConfigDict):
      section.update({n: v for n, v in options.items() if n in section})


def parse(define: Callable[[flags.FlagValues], None]) -> flags.FlagValues:
  """Parses the command line, with `--config` and its overrides.

  Args:
    define: adds the program's other flags.

  Raises:
    UserError: if the command line cannot be read; the message is one line.
  """
  values = flags.FlagValues()
  what = "A config file, `path.py` or `path.py:argument`."
  try:
    config_flags.DEFINE_config_file("config", None, what, flag_values=values)
    flag: Any = values["config"]
    flag.parser = config_file.Parser()
    define(values)
    # config_flags reads the overrides from sys.argv, so nothing else can be parsed.
    rest = values(sys.argv)
  except (AttributeError, KeyError):
    config = config_file.read(_named(sys.argv))
    raise UserError(_unknown_option(sys.argv, config)) from None
  except (flags.Error, ValueError, TypeError) as error:
    raise UserError(str(error)) from None
  if len(rest) > 1:
    raise UserError(f"argument {rest[1]!r} is no flag")
  return values


def read_config(values: flags.FlagValues) -> ConfigDict:
  """Returns the value of --config; UserError if the flag is missing."""
  if values["config"].value is None:
    raise UserError("--config is missing; for example --config configs/lm.py")
  return copy.deepcopy(values["config"].value)


def _named(argv: list[str]) -> str:
  """Returns the value of --config on a command line."""
  for place, argument in enumerate(argv):
    name, equal, value = argument.lstrip("-").partition("=")
    if name == "config":
      return value if equal else argv[place + 1]
  return ""


def _unknown_option(argv: list[str], config: ConfigDict) -> str:
  """Returns the message for an override of an option that the config lacks."""
  for argument in argv:
    name = argument.lstrip("-").partition("=")[0]
    if not name.startswith("config."):
      continue
    section, *path = config, *name.split(".")[1:]
    for place, part in enumerate(path):
      if not isinstance(section, ConfigDict) or part not in section:
        where = ".".join(["config", *path[:place]])
        known = section.keys() if isinstance(section, ConfigDict) else []
        return contract.unknown(f"option of {where}", part, known)
      section = section[part]
  return f"unknown option among {' '.join(argv)}"


def to_json(config: ConfigDict) -> dict[str, Any]:
  """Returns the config as nested dicts that survive JSON unchanged."""
  return json.loads(config.to_json())
