"""The options of `forget` and `retain`; imports nothing heavy."""

from __future__ import annotations

from dataclasses import dataclass

from transforms.core.option import Group, option


@dataclass(frozen=True, kw_only=True)
class ErasureOptions:
    """Options of both commands; the help of each option describes its field."""

    apply: bool = option(
        False, group=Group.INPUT_OUTPUT, help="erase; without it, only print what would be erased"
    )
    ordered_by: str = option(
        "",
        group=Group.INPUT_OUTPUT,
        metavar="TEXT",
        help="on whose order, for the report; must not identify a patient. forget --apply needs it",
        default_text="for retain: the policy",
    )
    legal_holds: str | None = option(
        None,
        group=Group.SELECTION,
        metavar="FILE",
        help="list of what must not be erased; legal_holds.txt of the lake and retention.legal_holds of "
        "the policy are respected as well",
    )
    patient_key_file: str | None = option(
        None,
        group=Group.SELECTION,
        metavar="FILE",
        help="key with which the runs have hashed Patient IDs; quarantined objects without a header are "
        "then searched for those of selected patients, and of patients under a legal hold",
    )
    deep: bool = option(
        False,
        group=Group.INPUT_OUTPUT,
        help="afterwards search every byte of the objects that remain for traces, too, and not only "
        "their names",
    )
    json: bool = option(False, group=Group.TERMINAL, help="print only the result, as JSON")


@dataclass(frozen=True, kw_only=True)
class ForgetOptions:
    """Options of `forget`; the help of each option describes its field."""

    patient_key: tuple[str, ...] = option(
        (),
        group=Group.SELECTION,
        metavar="HEX",
        help="erase the objects of these patients: patient_key of the index, 64 hex digits",
        default_text="none",
    )
    patient_ids: str | None = option(
        None,
        group=Group.SELECTION,
        metavar="FILE",
        help="erase the objects of these patients: Patient IDs, one a line; - reads standard input. "
        "Needs --patient_key_file",
    )
    study: tuple[str, ...] = option(
        (),
        group=Group.SELECTION,
        metavar="UID",
        help="erase these studies: Study Instance UIDs",
        default_text="none",
    )
    object: tuple[str, ...] = option(
        (),
        group=Group.SELECTION,
        metavar="KEY",
        help="erase these objects: object_key of the index, 12 hex digits",
        default_text="none",
    )
    list: str | None = option(
        None,
        group=Group.SELECTION,
        metavar="FILE",
        help="erase what this list names, one patient key, Study Instance UID or object key a line; - "
        "reads standard input",
    )
    policy: str | None = option(
        None,
        group=Group.INPUT_OUTPUT,
        metavar="FILE",
        help="policy of the runs, if it has sinks outside the lake or legal holds",
    )
    erasure: ErasureOptions = ErasureOptions()


@dataclass(frozen=True, kw_only=True)
class RetainOptions:
    """Options of `retain`; the help of each option describes its field."""

    policy: str = option(
        group=Group.INPUT_OUTPUT,
        metavar="FILE",
        help="policy with the section retention, and the sinks of the runs",
    )
    erasure: ErasureOptions = ErasureOptions()
