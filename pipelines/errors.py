"""The few named errors. Each message names the thing, the value and the valid form, in one line.

Vendors' errors are wrapped where they occur (`raise BackendError(...) from exc`). Only the CLI prints;
it exits with the error's `exit_code`.
"""

from __future__ import annotations


class AssayError(Exception):
    """Anything Assay itself says no to."""

    exit_code = 1


class BadInput(AssayError):
    """What the user gave cannot be used: a document folder, a question file, a name, a parameter."""

    exit_code = 2


class BadConfig(BadInput):
    """params.yaml or the environment does not say something usable."""


class NotTrainable(BadConfig):
    """The generator's weights are not on this machine: nothing can be trained on it, no adapter loaded."""


class MissingTool(BadInput):
    """A program, port or model that this machine must provide is not there."""


class NotFound(BadInput):
    """A corpus, build, adapter, release or generation of that name does not exist."""


class NotMeasurable(BadInput):
    """A measurement says nothing of this corpus: what it is made of is not there, and need not be."""


class BackendError(AssayError):
    """A vendor's component failed; the cause is chained."""


class IntegrityError(AssayError):
    """A digest, count or signature does not agree with what was sealed."""


class NotPromotable(BadInput):
    """There is no passing verdict for exactly this candidate."""


class NotApproved(NotPromotable):
    """A person must approve the candidate first (`promote.approval`), or one has rejected it."""


class Expired(BadInput):
    """The validity of a release is over (`promote.valid_days`)."""


class PromotionConflict(AssayError):
    """Another promotion won the generation; the message names it."""
