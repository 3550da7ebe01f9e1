"""Decide single objects, without Beam and without a lake."""

from __future__ import annotations

import io
import os
from collections.abc import Mapping
from types import TracebackType
from typing import TYPE_CHECKING, Any, Unpack

from pipeline.api.options import ObjectKeywords

if TYPE_CHECKING:
    from pydicom.dataset import Dataset

    from pipeline.explain import Decision, Explainer


class Decider:
    """Decide objects one after the other, with a model that is loaded once. Not thread-safe.

    Objects are parsed and decoded in a sandboxed child process, and decided as `route` would decide them.
    Use it as a context manager, or call `close`, which ends the child. Unless `OMP_NUM_THREADS` is set,
    loading the model sets the number of threads of PyTorch in this process.

    Args:
        **options: options of `dicom-router inspect` by name: `model`, `policy`, `device`, `frame`, and
            limits on one object.

    Raises:
        UsageError: an option, the model or the policy cannot be used.
    """

    def __init__(self, **options: Unpack[ObjectKeywords]) -> None:
        from pipeline.cli.resolve_config import object_config
        from pipeline.explain import Explainer

        config = object_config(object_options(options), [], os.curdir)
        config.check()
        self._explainer: Explainer = Explainer(config)

    def __enter__(self) -> Decider:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the child process."""
        self._explainer.close()

    def decide(self, source: str | os.PathLike[str] | bytes | Dataset) -> Decision:
        """Return the decision about an object.

        An invalid object is decided, too: it is quarantined, and the decision has the reason.

        Args:
            source: path or URI of the object, its bytes (PS3.10), or a data set of pydicom, which is
                encoded first.

        Raises:
            OSError: the object cannot be read, or the path is that of a folder.
            RuntimeError: the object has changed, or the child was killed; the message has the remedy.
            UsageError: the data set cannot be encoded.
        """
        from pipeline.user_errors import to_user_error
        from transforms.core.reasons import ProcessingFailure

        try:
            if isinstance(source, (bytes, bytearray, memoryview)):
                return self._explainer.explain_bytes(bytes(source))
            if isinstance(source, (str, os.PathLike)):
                return self._explainer.explain(self._explainer.reference(os.fspath(source)))
            return self._explainer.explain_bytes(_encoded(source))
        except ProcessingFailure as error:
            raise to_user_error(error) from error


def object_options(options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the options for single objects that are given, by flag.

    Raises:
        UsageError: an option is unknown, or its value has another type.
    """
    from transforms.config.run_options import ObjectOptions
    from transforms.core.errors import UsageError, did_you_mean
    from transforms.core.option import options_of

    known = {one.flag: one.kind for one in options_of(ObjectOptions)}
    given: dict[str, Any] = {}
    for name, value in options.items():
        if name not in known:
            near = did_you_mean(name, known)
            raise UsageError(f"unknown option {name}" + (f": did you mean {near}?" if near else ""))
        if value is None:
            continue
        value = os.fspath(value) if isinstance(value, os.PathLike) else value
        kind = known[name]
        if not isinstance(value, (int, float) if kind is float else kind):
            raise UsageError(f"{name}: {value!r} is not of type {kind.__name__}")
        given[name] = value
    return given


def _encoded(data: Dataset) -> bytes:
    """Return a data set as bytes of a DICOM file (PS3.10)."""
    from pydicom import dcmwrite

    from transforms.core.errors import UsageError

    buffer = io.BytesIO()
    try:
        dcmwrite(buffer, data, enforce_file_format=True)
    except (AttributeError, KeyError, NotImplementedError, TypeError, ValueError) as error:
        # Its message may have values of the data set.
        raise UsageError(
            f"the data set cannot be encoded ({type(error).__name__}); set file_meta.TransferSyntaxUID, "
            "SOPClassUID and SOPInstanceUID, or give the bytes of the file"
        ) from None
    return buffer.getvalue()
