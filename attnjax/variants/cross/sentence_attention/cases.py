"""Small problems of the functions: one pixel, one channel, rows, columns, odd sides."""

from attnjax.contract import Case


def _weights(E, M, C):
  line = dict.fromkeys(("inner_bias", "gain", "shift"), (M,))
  return {"inner": (E, M), "outer": (M, C), "outer_bias": (C,)} | line


def _gated(name, x, E, M, gate):
  shapes = {"x": x, "sentence": (x[0], E)} | _weights(E, M, x[3])
  return Case(name, shapes, {"gate": gate})


def _alone(name, B, E, M, C, gate):
  shapes = {"sentence": (B, E)} | _weights(E, M, C)
  return Case(name, shapes, {"gate": gate}, function="channel_gate")


def _projected(name, x, D):
  shapes = {"x": x, "gate": (x[0], x[3]), "kernel": (x[3], D)}
  return Case(name, shapes, function="project")


CASES = (
  _gated("softmax", (2, 5, 7, 6), 5, 20, "softmax"),
  _gated("one_pixel", (3, 1, 1, 7), 1, 4, "softmax_scaled"),
  _gated("one_channel", (2, 65, 1, 1), 3, 12, "sigmoid"),
  _alone("gate", 7, 4, 16, 9, "softmax_scaled"),
  _projected("folded", (2, 1, 63, 6), 3),
)
