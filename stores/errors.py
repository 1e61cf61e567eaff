"""Every error that pinglm raises on purpose.

    PinglmError
     ├─ ConfigError     (ValueError)         options that contradict each other, or the folder's own record
     ├─ InputError      (ValueError)         an input file that cannot be read, or is not what it should be
     ├─ OutputError     (OSError)            an output that cannot be written: disk full, folder in use
     ├─ RemoteError     (OSError)            a bucket or server that cannot be reached, or refuses
     │   └─ TransientError                   the same, where asking again may help
     ├─ TokenError      (ValueError)         tokens that do not form a valid window
     ├─ NotAStoreError  (FileNotFoundError)  a path without a finished manifest
     ├─ DamagedStoreError (ValueError)       a store whose files differ from its manifest
     ├─ CheckpointError (ValueError)         a checkpoint that is missing, unreadable, or of another store or shape
     ├─ QueryError      (ValueError)         a malformed query to a model: NaN, mixed address families
     └─ TrainingError   (RuntimeError)       training that went wrong: NaN, batch larger than the split

A message is one line: what, where, expected, found, what to do. The command line prints it and exits 1.
"""

from __future__ import annotations


class PinglmError(Exception):
    """Base of all the errors below. Catch it to catch every failure that pinglm explains."""


class ConfigError(PinglmError, ValueError):
    """Options contradict each other or what a folder was made with."""


class InputError(PinglmError, ValueError):
    """An input file is missing, unreadable, truncated, or of the wrong shape."""


class OutputError(PinglmError, OSError):
    """An output cannot be written: no space, no permission, or the folder holds something else."""


class RemoteError(PinglmError, OSError):
    """A bucket or server cannot be reached, refuses, breaks off, or keeps other bytes than it was sent."""


class TransientError(RemoteError):
    """A server fails, drops a connection, or asks to wait: the same request may succeed later."""

    wait = 0.0
    """Seconds that the server asks to wait before the next request."""


class TokenError(PinglmError, ValueError):
    """A token sequence breaks the grammar; the message names position, expected and found."""


class NotAStoreError(PinglmError, FileNotFoundError):
    """The path has no finished manifest, so it is not a token store."""


class DamagedStoreError(PinglmError, ValueError):
    """A file of the store is missing, has another size, or other content than the manifest says."""


class CheckpointError(PinglmError, ValueError):
    """A checkpoint is missing, or belongs to another store, shape or configuration."""


class QueryError(PinglmError, ValueError):
    """A query to a model is malformed.

    `field` is the name of the wrong field and `problem` says what is wrong with it; `row` is the index
    of the context's measurement that the field belongs to, `None` for a field of the query itself.
    """

    def __init__(self, field: str, problem: str, row: int | None = None):
        super().__init__(field, problem, row)
        self.field = field
        self.problem = problem
        self.row = row

    def __str__(self) -> str:
        where = "" if self.row is None else f"context[{self.row}]."
        return f"{where}{self.field} {self.problem}"


class TrainingError(PinglmError, RuntimeError):
    """Training cannot continue: the loss is not finite, or the split is smaller than one batch."""
