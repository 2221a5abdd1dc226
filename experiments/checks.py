"""Checks of a config: that it has what the application reads, within its range."""

from typing import Any

from ml_collections import ConfigDict

# Options of every config that the trainer reads, with their defaults.
TRAINER: dict[str, Any] = {
  "seed": 0,
  "steps": 500,
  "dtype": "float32",  # of the computation; parameters are float32
  "optimizer": {
    "rate": 1e-3,
    "warmup": 50,
    "final": 0.1,  # the last rate, as a share of `rate`
    "weight_decay": 0.1,
    "b1": 0.9,
    "b2": 0.95,
    "clip": 1.0,  # of the gradient's global norm; 0: none
    "accumulate": 1,
  },
  "train": {"only": ""},  # a rule of the paths of parameters; see training.part
  "phases": "",  # options that change at a step; see training.phases
  "memory": 0,  # earlier tokens that layers see; batches go on; see training.memory
  "init": "",  # the workdir of a run whose parameters are the first
  "mesh": {"data": -1, "model": 1},
  "log_every": 10,
  "eval_every": 100,
  "eval_batches": 0,  # 0: the whole split
  "save_every": 100,
  "keep": 2,
  "sample": {"prompt": "", "length": 200, "temperature": 0.8},
}
# Options without a default: these values only give the types.
_NAMES: dict[str, Any] = {
  "host": "",
  "mechanism": "",
  "model": {},
  "attention": {},
  "data": {"name": "", "batch": 16},
}
_LEAST = {
  "steps": 1,
  "log_every": 1,
  "eval_every": 1,
  "save_every": 1,
  "keep": 1,
  "data.batch": 1,
  "optimizer.accumulate": 1,
  "seed": 0,
  "memory": 0,
  "eval_batches": 0,
  "optimizer.rate": 0,
  "optimizer.warmup": 0,
  "optimizer.final": 0,
  "optimizer.weight_decay": 0,
  "optimizer.clip": 0,
  "optimizer.b1": 0,
  "optimizer.b2": 0,
  "sample.temperature": 0,
}
_BELOW = {"optimizer.b1": 1, "optimizer.b2": 1, "seed": 2**63}
_DTYPES = ("float32", "bfloat16")


def check(config: ConfigDict) -> None:
  """Raises ValueError for the first value that is missing or invalid."""
  _check_kinds(config, TRAINER | _NAMES, "")
  for name, least in _LEAST.items():
    value = _get(config, name)
    if not value >= least:  # nor NaN
      raise ValueError(f"{name} = {value}; it must be {least} or more")
  for name, bound in _BELOW.items():
    value = _get(config, name)
    if not value < bound:
      raise ValueError(f"{name} = {value}; it must be below {bound}")
  if config.dtype not in _DTYPES:
    raise ValueError(f"dtype = {config.dtype!r}; it must be {' or '.join(_DTYPES)}")
  utf8("sample.prompt", config.sample.prompt)
  utf8("init", config.init)


def is_like(value: Any, default: Any) -> bool:
  """Returns whether a value obeys the `rule` of its default."""
  if not _is_of_kind(value, default):
    return False
  if isinstance(default, bool) or not isinstance(default, (int, float)):
    return True
  return value > 0 or not default > 0 or isinstance(default, float) and value == 0


def rule(default: Any) -> str:
  """Says which values `is_like` accepts: the default's type, its range if positive."""
  if not isinstance(default, bool) and isinstance(default, (int, float)):
    kind, least = ("an integer", 1) if isinstance(default, int) else ("a number", 0)
    return f"{kind}, {least} or more" if default > 0 else kind
  return f"of type {type(default).__name__}"


def utf8(name: str, text: str) -> bytes:
  """Encodes text as UTF-8; ValueError where the bytes that came in were not UTF-8."""
  try:
    return text.encode()
  except UnicodeEncodeError as error:
    raise ValueError(
      f"{name} = {text!r} is not UTF-8 from character {error.start} on"
    ) from None


def _check_kinds(held: Any, wanted: dict[str, Any], prefix: str):
  for name, default in wanted.items():
    if name not in held:
      raise ValueError(f"the config has no {prefix}{name}")
    value = held[name]
    if isinstance(default, dict):
      if not isinstance(value, (ConfigDict, dict)):
        raise ValueError(f"{prefix}{name} = {value!r}; it must be a section")
      _check_kinds(value, default, f"{prefix}{name}.")
    elif not _is_of_kind(value, default):
      kind = type(default).__name__
      raise ValueError(f"{prefix}{name} = {value!r}; it must be of type {kind}")


def _is_of_kind(value: Any, default: Any) -> bool:
  if isinstance(value, bool):
    return isinstance(default, bool)
  if isinstance(default, float):
    return isinstance(value, (int, float))
  return isinstance(value, type(default))


def _get(config: ConfigDict, name: str) -> Any:
  section: Any = config
  for part in name.split("."):
    section = section[part]
  return section
