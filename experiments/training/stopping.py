"""An orderly stop on SIGTERM, which is how a scheduler says that time is up."""

import signal


class Sigterm:
  """A context in which SIGTERM asks for an orderly stop after the step."""

  def __enter__(self):
    self.requested = False
    try:
      self._before = signal.signal(signal.SIGTERM, self._ask)
    except ValueError:  # not the main thread: signals are not ours
      self._before = None
    return self

  def __exit__(self, *error):
    if self._before is not None:
      signal.signal(signal.SIGTERM, self._before)

  def _ask(self, *_):
    self.requested = True
