"""The config of a run: its sections with their defaults, and its flags.

A config file makes one with `default(...)` and changes what it is about. Every default
can be overridden as `--config.section.name=value`; none is None, since ml_collections
would not know its type. `--config.data.name` also changes which options `config.data`
has.
"""

import copy
import importlib
import inspect
import json
import sys
import types
from collections.abc import Callable
from typing import Any

from absl import flags
from ml_collections import ConfigDict, FieldReference, config_flags

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
  sections = {slug: ConfigDict(_of_layer(host, slug)) for slug in slugs}
  return ConfigDict(
    {
      **copy.deepcopy(checks.TRAINER),
      "host": host,
      "mechanism": mechanisms,
      "model": _of_model(host, mechanisms),
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


def host_of(mechanisms: str, *hosts: str) -> str:
  """Returns the first of these hosts that takes all mechanisms, the last one if none.

  Args:
    mechanisms: as in `default`.
    *hosts: modules of attnjax.models.
  """
  systems = [contract.load(slug) for slug in split(mechanisms)]
  for host in hosts:
    forms = set(host_module(host).FORMS)
    if all(forms & set(module.FORMS) for module in systems):
      return host
  return hosts[-1]


def host_defaults(host: str, mechanisms: str = "", **chosen: Any) -> dict[str, Any]:
  """Returns the hyper-parameters of a host with their defaults.

  Args:
    host: a module of attnjax.models.
    mechanisms: the pattern; a host with a function `defaults` reads it.
    **chosen: hyper-parameters on which such a host's others depend.
  """
  module = host_module(host)
  if hasattr(module, "defaults"):
    return module.defaults(
      [contract.load(slug) for slug in split(mechanisms)], **chosen
    )
  make = module.Model
  make = make.__init__ if inspect.isclass(make) else make
  parameters = inspect.signature(make).parameters.values()
  # Arguments of its constructor that come from the task or the trainer.
  others = {"self", "builds", "rngs", *module.SIZES}
  return {p.name: p.default for p in parameters if p.name not in others}


def _of_layer(host: str, slug: str) -> dict[str, Any]:
  """Returns the section `attention` of a system: empty where a host takes no layers."""
  forms = map(contract.form, host_module(host).FORMS)
  layers = any(hasattr(form, "Layer") or hasattr(form, "Scorer") for form in forms)
  return contract.defaults(slug) if layers else {}


def _of_model(host: str, mechanisms: str) -> ConfigDict:
  """Returns the section `model`.

  Defaults that depend on other options follow them until they are set.
  """
  section = ConfigDict(host_defaults(host, mechanisms))
  make = getattr(host_module(host), "defaults", None)
  chosen = [] if make is None else list(inspect.signature(make).parameters)[1:]
  references = {name: section.get_ref(name) for name in chosen}
  for name in set(section) - set(references) if references else ():

    def follow(value, *values, name=name):
      return host_defaults(host, mechanisms, **dict(zip(references, values)))[name]

    op = types.SimpleNamespace(fn=follow, args=list(references.values()))
    section[name] = FieldReference(section[name], op=op)
  return section


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
    flag.parser = config_file.Parser(_of_named_data)
    define(values)
    # config_flags reads the overrides from sys.argv, so nothing else can be parsed.
    rest = values(sys.argv)
  except (AttributeError, KeyError):
    config = _of_named_data(config_file.read(_value(sys.argv, "config")))
    raise UserError(_unknown_option(sys.argv, config)) from None
  except (flags.Error, ValueError, TypeError) as error:
    raise UserError(str(error)) from None
  if len(rest) > 1:
    raise UserError(f"argument {rest[1]!r} is no flag")
  return values


def read_config(values: flags.FlagValues) -> ConfigDict:
  """Returns the value of --config.

  Raises:
    UserError: if the flag is missing, or a value has no default that follows it.
  """
  if values["config"].value is None:
    raise UserError("--config is missing; for example --config configs/lm.py")
  try:
    return values["config"].value.copy_and_resolve_references()
  except ValueError as error:
    raise UserError(str(error)) from error


def with_dataset(config: ConfigDict, name: str) -> ConfigDict:
  """Gives a config another data set, with that one's options, in place.

  The batch stays, and so do options which both data sets have and which the config had
  changed from their defaults.

  Raises:
    UserError: if there is no such data set.
  """
  old = config.data.to_dict()
  if name == old["name"]:
    return config
  try:
    new, usual = data.defaults(name), data.defaults(old["name"])
  except (ValueError, ModuleNotFoundError) as error:
    raise UserError(str(error)) from error
  kept = {n: v for n, v in old.items() if n in new and n in usual and v != usual[n]}
  config.data = ConfigDict({"name": name, "batch": old["batch"]} | new | kept)
  return config


def _of_named_data(config: ConfigDict) -> ConfigDict:
  """Gives a config the data set that the command line names, if any."""
  name = _value(sys.argv, "config.data.name")
  named = isinstance(config.get("data"), ConfigDict) and "name" in config.data
  return with_dataset(config, name) if name and named else config


def _value(argv: list[str], flag: str) -> str:
  """Returns the value of a flag on a command line, or an empty text."""
  for place, argument in enumerate(argv):
    name, equal, value = argument.lstrip("-").partition("=")
    if name == flag and argument.startswith("-"):
      return value if equal else "".join(argv[place + 1 : place + 2])
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
