"""One run at a time in a workdir: the file `lock`, held by whoever writes there.

It names the host, the process and its start, and counts up while the run is alive. It
is gone when the run ends, also by Ctrl-C or SIGTERM. What a killed run leaves behind:

  on this host   flock tells at once, or the process's number where the file system has
                 no flock: the lock is taken over
  elsewhere      (a shared file system, a machine started anew, another container) the
                 count is watched for a minute: it is taken over if it stands still

So it needs of a shared file system only that a host sees within a minute what another
one has written: NFS, Lustre and GPFS do. Who lost the lock, e.g. while suspended, does
not save any more. Of the processes of one job, the first holds it for all.
"""

import contextlib
import fcntl
import json
import os
import socket
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from experiments.errors import UserError

FILE = "lock"


class Lock:
  """The lock of a workdir; a context.

  Args:
    workdir: the run's folder; it is made if it is not there.
    say: prints that another host's lock is being watched.
    beat: seconds between two counts.
    silence: seconds without a count after which another host's lock is void.

  Raises:
    UserError: on entering, if another run holds it.
  """

  def __init__(
    self,
    workdir: Path,
    say: Callable[[str], None] = print,
    *,
    beat: float = 10.0,
    silence: float = 60.0,
  ):
    self.path, self._say = Path(workdir) / FILE, say
    self._beat, self._silence = beat, silence
    self._self = {
      "host": socket.gethostname(),
      "boot": _boot(),
      "process": os.getpid(),
      "since": time.strftime("%Y-%m-%d %H:%M:%S"),
      "token": uuid.uuid4().hex,
    }
    self._count, self._file = 0, -1
    self._end, self._writing = threading.Event(), threading.Lock()

  def __enter__(self) -> "Lock":
    try:
      self.path.parent.mkdir(parents=True, exist_ok=True)
    except (FileExistsError, NotADirectoryError):
      raise UserError(
        f"workdir {self.path.parent}: it, or a folder above it, is a file"
      ) from None
    self._take()
    self._thread = threading.Thread(target=self._beats, daemon=True)
    self._thread.start()
    return self

  def __exit__(self, *error) -> None:
    self._end.set()
    self._thread.join()
    with contextlib.suppress(OSError):
      if self._is_ours():
        self.path.unlink()
    self._drop()

  def check(self) -> None:
    """Raises UserError if another run has taken the lock; if it is gone, takes it."""
    if not self.path.exists():
      self._drop()
      self._take()
    elif not self._is_ours():
      raise UserError(
        f"{_name(_read(self.path))} has taken over {self.path.parent}: nothing is saved"
      )

  def _take(self):
    while True:
      file = os.open(self.path, os.O_RDWR | os.O_CREAT, 0o644)
      try:
        locked, owner = _flock(file), _read(self.path)
        if locked is False or owner and not self._is_dead(owner, locked):
          raise self._in_use(owner)
        if _is_at(file, self.path):
          break
      except BaseException:
        os.close(file)
        raise
      os.close(file)  # its owner has just ended, and removed it
    with self._writing:
      self._file = file
      self._write()
    if locked is None:
      time.sleep(min(1.0, self._beat))  # a writer at the same time is done by then
      if not self._is_ours():
        self._drop()
        raise self._in_use(_read(self.path))

  def _drop(self):
    with self._writing:
      if self._file >= 0:
        os.close(self._file)
      self._file = -1

  def _in_use(self, owner: dict[str, Any]) -> UserError:
    return UserError(
      f"{self.path.parent} is in use by {_name(owner)}; wait for its end, or choose"
      " another --workdir"
    )

  def _is_dead(self, owner: dict[str, Any], locked: bool | None) -> bool:
    if all(owner.get(name) == self._self[name] for name in ("host", "boot")):
      return bool(locked) or not _is_alive(owner.get("process"))
    wait = f"waiting {self._silence:g} s for a sign of life"
    self._say(f"{self.path} is of {_name(owner)}: {wait}")
    end = time.monotonic() + self._silence
    while time.monotonic() < end:
      time.sleep(min(1.0, self._silence / 10))
      if _read(self.path) != owner:
        return False
    return True

  def _is_ours(self) -> bool:
    return _read(self.path).get("token") == self._self["token"]

  def _beats(self):
    while not self._end.wait(self._beat):
      with self._writing, contextlib.suppress(OSError):
        if self._file >= 0 and self._is_ours():
          self._write()

  def _write(self):
    self._count += 1
    # All texts have one length, so that no reader finds an older one's end behind it.
    text = json.dumps(self._self | {"count": f"{self._count:012d}"}) + "\n"
    os.pwrite(self._file, text.encode(), 0)
    os.ftruncate(self._file, len(text))


@contextlib.contextmanager
def held(workdir: Path, say: Callable[[str], None]) -> Iterator[Callable[[], None]]:
  """Holds the lock of a job of one or several processes; yields its check.

  Raises:
    UserError: in every process, if the first one cannot have it.
  """
  with contextlib.ExitStack() as stack:
    lock, refusal = Lock(workdir, say), None
    if not jax.process_index():
      try:
        stack.enter_context(lock)
      except (OSError, UserError) as error:
        refusal = error
    if jax.process_count() > 1:
      refused = multihost_utils.broadcast_one_to_all(np.int32(refusal is not None))
      if refused and jax.process_index():
        refusal = UserError(f"the first process cannot have {workdir} for the run")
    if refusal is not None:
      raise refusal
    yield (lambda: None) if jax.process_index() else lock.check


def _flock(file: int) -> bool | None:
  """Returns whether this process has the file now; None without support of flock."""
  try:
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
  except BlockingIOError:
    return False
  except OSError:
    return None
  return True


def _is_at(file: int, path: Path) -> bool:
  """Returns whether an open file is the one at the path."""
  try:
    return os.path.samestat(os.fstat(file), path.stat())
  except FileNotFoundError:
    return False


def _read(path: Path) -> dict[str, Any]:
  """Reads a lock; empty if the file is absent, or was cut off while written."""
  try:
    owner = json.loads(path.read_text(encoding="utf-8"))
  except (FileNotFoundError, ValueError):
    return {}
  return owner if isinstance(owner, dict) else {}


def _name(owner: dict[str, Any]) -> str:
  if not owner:
    return "another run"
  return (
    f"process {owner.get('process')} on {owner.get('host')}, since {owner.get('since')}"
  )


def _boot() -> str:
  """Returns the id of this boot, which tells hosts of one name apart."""
  with contextlib.suppress(OSError):
    return Path("/proc/sys/kernel/random/boot_id").read_text(encoding="utf-8").strip()
  return ""


def _is_alive(process: Any) -> bool:
  try:
    os.kill(int(process), 0)
  except (ProcessLookupError, ValueError, TypeError, OverflowError):
    return False
  except PermissionError:
    return True
  return True
