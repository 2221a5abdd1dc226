"""Small problems of the two gates and of what they make of x."""

from attnjax.contract import Case


def _head(variant, D, F, G):
  """Returns the shapes of the arrays of a variant's channel gate, by name."""
  if variant == "code_s":
    inside = {"squeeze": (F, G), "squeeze_bias": (G,), "gain": (G,), "shift": (G,)}
    return inside | {"up": (G, D), "up_bias": (D,)}
  norm = {"gain": (D,), "shift": (D,)} if variant == "paper" else {}
  return norm | {"up": (F, D)}


def _both(name, x, variant, layout, F=4, G=3):
  D = x[-1]
  shapes = {"x": x, "channel_query": (D,), "channel_value": (D, F)}
  shapes |= {"spatial_query": (D, F), "spatial_value": (D, F)}
  shapes |= _head(variant, D, F, G)
  return Case(name, shapes, {"variant": variant, "layout": layout})


def _channel(name, x, variant, F=4, G=3):
  shapes = {"x": x, "query": x[-1:], "value": (x[-1], F)}
  shapes |= _head(variant, x[-1], F, G)
  return Case(name, shapes, {"variant": variant}, function="channel_gate")


def _spatial(name, x, variant, F=4):
  shapes = {"x": x, "query": (x[-1], F), "value": (x[-1], F)}
  return Case(name, shapes, {"variant": variant}, function="spatial_gate")


CASES = (
  _both("paper", (2, 5, 7, 12), "paper", "parallel"),
  _both("paper_one_by_one", (3, 1, 1, 8), "paper", "sequential"),
  _both("code_p_row", (1, 1, 63, 7), "code_p", "parallel", F=3),
  _both("code_p_column", (2, 65, 1, 2), "code_p", "sequential", F=1),
  _both("code_s", (2, 3, 5, 8), "code_s", "parallel"),
  _both("code_s_narrow", (1, 9, 7, 6), "code_s", "sequential", F=2, G=1),
  _channel("channel_gate", (2, 7, 9, 5), "paper"),
  _spatial("spatial_gate", (2, 7, 9, 5), "code_s"),
)
