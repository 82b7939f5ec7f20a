"""Reading a file of ``torch.save`` that nobody vouches for, without running anything in it.

Here: what a file asks for, what it is given, and inert stand-ins for classes that are not installed. Not
here: what the content means (checkpoint.py).

Two walls stand one behind the other. The instructions are listed before anything is loaded, and a name that
is neither tensor machinery (``_TENSOR_MACHINERY``) nor below an allow-listed prefix ends it; then torch loads
with ``weights_only=True``, which has a list of its own.
"""

from __future__ import annotations

import errno
import pickletools
import threading
import zipfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from postval_assets.core.failures import Rejected, Unavailable

# A checkpoint's instructions take a few kilobytes; the numbers lie beside them.
_MAX_INSTRUCTION_BYTES = 4 * 2**20
# Tuples nested by the ten thousand overflow the interpreter's own stack when they are hashed.
_MAX_TUPLES = 5_000
_MAX_RECORDS = 20_000
_PICKLE_PROTOCOL_2 = b"\x80\x02"

# What torch.save writes for dense tensors. Narrower than torch's own list, which also builds sparse,
# quantized and meta tensors, tensor subclasses, and byte arrays of any size.
_TENSOR_MACHINERY = frozenset(
    {
        "collections.OrderedDict",
        "__builtin__.set",
        "builtins.set",
        "torch.Size",
        "torch.device",
        "torch._utils._rebuild_tensor_v2",
        "torch._utils._rebuild_parameter",
        "torch.nn.parameter.Parameter",
    }
    | {
        f"torch.{kind}Storage"
        for kind in ("Float", "Double", "Half", "BFloat16", "Long", "Int", "Short", "Char", "Byte", "Bool")
    }
    | {
        f"torch.{name}"
        for name in (
            "float32",
            "float64",
            "float16",
            "bfloat16",
            "int64",
            "int32",
            "int16",
            "int8",
            "uint8",
            "bool",
        )
    }
)

# torch keeps the allow-list of a load in one process-wide set.
_LOADING = threading.Lock()


class InertRecord:
    """An object of a class that is not installed: its arguments and fields, and none of its code."""

    __slots__ = ("args", "state")

    qualified_name = ""
    args: tuple[object, ...]
    state: object

    def __new__(cls, *args: object) -> InertRecord:  # noqa: PYI034 - subclasses only carry a name
        """Keep what the class was called with (an enum's value, a named tuple's items)."""
        record = super().__new__(cls)
        record.args = args
        record.state = None
        return record

    def __setstate__(self, state: object) -> None:
        """Keep what the instance's fields were set to."""
        self.state = state

    def fields(self) -> dict[str, object]:
        """The named fields, where the object had any; slots of a slotted class included."""
        parts = self.state if isinstance(self.state, tuple) else (self.state,)
        found: dict[str, object] = {}
        for part in parts:
            if isinstance(part, dict):
                found.update({key: value for key, value in part.items() if isinstance(key, str)})
        return found


def load_torch_file(path: Path, allowed_prefixes: Iterable[str]) -> dict[Any, Any]:
    """The dict in a file of ``torch.save``, its tensors as views on the file (copy what outlives it).

    Args:
        path: a local file; it must not change while the tensors are used.
        allowed_prefixes: packages whose classes are read as ``InertRecord``, such as ``alpaca_trading.``.

    Raises:
        Rejected: not a file of torch.save, damaged, or it asks for something that is not allowed, which is
        named.
        Unavailable: the operating system could not read the file.
    """
    import torch

    wanted = _wanted_globals(_instructions(path))
    inert = _inert_classes(wanted, allowed_prefixes)
    try:
        # torch reads the container with another zip library, which might see other instructions than ours
        # did.
        _allow_only(inert, torch.serialization.get_unsafe_globals_in_checkpoint(str(path)))
        pairs: list[Any] = [(record_class, name) for name, record_class in inert.items()]
        with _LOADING, torch.serialization.safe_globals(pairs):
            content = torch.load(str(path), map_location="cpu", weights_only=True, mmap=True)
    except Rejected:
        raise
    except OSError as error:
        raise _unread(path, error) from error
    except Exception as error:  # hostile bytes may raise anything; no code ran, and the file is final
        reason = str(error).strip().splitlines() or [type(error).__name__]
        raise Rejected(f"{path.name} is not a readable checkpoint: {ascii(reason[0])[:200]}") from error
    if not isinstance(content, dict):
        raise Rejected(
            f"{path.name} holds a {type(content).__name__}; expected a dict with policy_state_dict"
        )
    return content


def _instructions(path: Path) -> bytes:
    """The pickle inside the file, after checking that the container is what torch.save writes."""
    name = path.name
    try:
        with path.open("rb") as file:
            head = file.read(2)
        if head == _PICKLE_PROTOCOL_2:
            raise Rejected(
                f"{name} is in the format that torch wrote before 1.6; "
                "save it again with a current torch.save"
            )
        with zipfile.ZipFile(path) as container:
            records = container.infolist()
            found = _instruction_record(name, records)
            return container.read(found)
    except (zipfile.BadZipFile, EOFError, ValueError, NotImplementedError, RuntimeError) as error:
        raise Rejected(
            f"{name} is not a file of torch.save, or it is cut short: {ascii(str(error))[:120]}"
        ) from error
    except OSError as error:
        raise _unread(path, error) from error


def _unread(path: Path, error: OSError) -> Rejected | Unavailable:
    # A damaged directory sends the reader to places that no file has; that will not pass by itself.
    if error.errno in {errno.EINVAL, errno.EOVERFLOW}:
        return Rejected(f"{path.name} is not a file of torch.save: its directory points outside the file")
    return Unavailable(f"{path.name} could not be read: {error}")


def _instruction_record(name: str, records: list[zipfile.ZipInfo]) -> zipfile.ZipInfo:
    if len(records) > _MAX_RECORDS:
        raise Rejected(f"{name} has {len(records)} records; at most {_MAX_RECORDS} are read")
    if len({record.filename for record in records}) != len(records):
        raise Rejected(f"{name} has two records of the same name, which torch.save never writes")
    inside = {record.filename.partition("/")[2] for record in records}
    if "constants.pkl" in inside:
        raise Rejected(f"{name} is a TorchScript program; expected a dict written by torch.save")
    if any(record.compress_type != zipfile.ZIP_STORED or record.flag_bits & 1 for record in records):
        raise Rejected(f"{name} has a compressed or encrypted record, which torch.save never writes")
    found = [record for record in records if record.filename.rpartition("/")[2] == "data.pkl"]
    if len(found) != 1 or "data.pkl" not in inside:
        raise Rejected(f"{name} is a zip file but not one of torch.save: expected one data.pkl in one folder")
    if found[0].file_size > _MAX_INSTRUCTION_BYTES:
        raise Rejected(
            f"{name}: its instructions take {found[0].file_size} bytes; at most "
            f"{_MAX_INSTRUCTION_BYTES} are read"
        )
    return found[0]


def _wanted_globals(instructions: bytes) -> set[tuple[str, str]]:
    """Every (module, name) that the instructions would import."""
    wanted: set[tuple[str, str]] = set()
    n_tuples = 0
    try:
        for opcode, argument, _ in pickletools.genops(instructions):
            if opcode.name == "GLOBAL":
                module, _, attribute = str(argument).rpartition(" ")
                wanted.add((module, attribute))
            elif opcode.name in {"STACK_GLOBAL", "INST", "OBJ", "EXT1", "EXT2", "EXT4", "NEWOBJ_EX"}:
                raise Rejected(
                    f"the checkpoint uses {opcode.name}, which torch.save (protocol 2) never writes"
                )
            elif opcode.name.startswith("TUPLE"):
                n_tuples += 1
    except (ValueError, UnicodeDecodeError) as error:
        raise Rejected(f"the checkpoint's instructions are damaged: {ascii(str(error))[:120]}") from error
    if n_tuples > _MAX_TUPLES:
        raise Rejected(f"the checkpoint builds {n_tuples} tuples; at most {_MAX_TUPLES} are read")
    return wanted


def _inert_classes(
    wanted: set[tuple[str, str]], allowed_prefixes: Iterable[str]
) -> Mapping[str, type[InertRecord]]:
    prefixes = tuple(f"{prefix.rstrip('.')}." for prefix in allowed_prefixes)
    if "." in prefixes:
        raise ValueError("an empty prefix would allow every class")
    inert: dict[str, type[InertRecord]] = {}
    for module, attribute in sorted(wanted):
        name = f"{module}.{attribute}"
        if name in _TENSOR_MACHINERY:
            continue
        if not f"{module}.".startswith(prefixes):
            raise _forbidden(name)
        inert[name] = type("InertRecord", (InertRecord,), {"__slots__": (), "qualified_name": name})
    return inert


def _allow_only(inert: Mapping[str, object], unknown: Iterable[str]) -> None:
    for name in sorted(unknown):
        if name not in inert:
            raise _forbidden(name)


def _forbidden(name: str) -> Rejected:
    return Rejected(
        f"the checkpoint asks for {ascii(name)[1:-1][:120]}: only dense tensors, plain values and "
        "classes of the allow-listed packages are read"
    )
