"""Numbers as people read them."""

import math
from typing import Any


def number(value: Any) -> str:
  """Formats a number with four significant digits, integers below a million in full.

  Other values are converted by `str`.
  """
  if isinstance(value, bool) or not isinstance(value, int | float):
    return str(value)
  if isinstance(value, int):
    return f"{value:,}" if abs(value) < 10**6 else count(value)
  if not math.isfinite(value):
    return str(value)
  if value and not 1e-4 <= abs(value) < 1e6:
    return f"{value:.3e}"
  return f"{value:.4g}" if abs(value) < 1e3 else f"{value:,.0f}"


def count(value: float) -> str:
  """Formats a number with a metric prefix and three digits: 14200 is "14.2k"."""
  return _prefixed(value, 1000, ("", "k", "M", "G", "T", "P", "E"))


def size(bytes: float) -> str:
  """Formats bytes in binary units: 1572864 is "1.5 MiB"."""
  return _prefixed(bytes, 1024, (" B", " KiB", " MiB", " GiB", " TiB", " PiB"))


def duration(seconds: float) -> str:
  """Formats seconds in the two largest units: 80 is "1m20s", 0.0123 is "12.3 ms"."""
  if seconds < 1:
    return f"{seconds * 1000:.3g} ms"
  if seconds < 59.95:
    return f"{seconds:.3g} s"
  minutes, rest = divmod(round(seconds), 60)
  if minutes < 60:
    return f"{minutes}m{rest:02d}s"
  hours, minutes = divmod(minutes, 60)
  if hours < 24:
    return f"{hours}h{minutes:02d}m"
  return f"{hours // 24}d{hours % 24:02d}h"


def name(key: str) -> str:
  """Turns a key into words: bits_per_byte is "bits/byte", exact_match "exact match"."""
  return key.replace("_per_second", "/s").replace("_per_", "/").replace("_", " ")


def _prefixed(value: float, base: int, units: tuple[str, ...]) -> str:
  if not math.isfinite(value):
    return str(value)
  power = 0
  # 999.95 would be printed as 1e+03.
  while abs(value) >= base * 0.9995 and power + 1 < len(units):
    value, power = value / base, power + 1
  digits = f"{value:.3g}" if abs(value) < 999.5 else f"{value:.0f}"
  return digits + units[power]
